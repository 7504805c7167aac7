package memstore_test

import (
	"testing"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/memstore"
	"github.com/coatcheck/coatcheck/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, storetest.Config{
		New:      func(*testing.T) store.Store { return memstore.New() },
		Second:   func(_ *testing.T, s store.Store) store.Store { return s },
		Synctest: true,
	})
}
