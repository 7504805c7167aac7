package mongostore_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/coatcheck/coatcheck/store/mongostore"
)

// At the start of a program.
func ExampleOpenURL() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	sessions, err := mongostore.OpenURL(ctx, "mongodb+srv://app:secret@cluster.example.com/shop", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer sessions.Close()
	if err := sessions.Migrate(ctx); err != nil { // or Verify, where the indexes are made elsewhere
		log.Fatal(err)
	}
	// sessions goes to session.New.
}

// A program can look at its configuration before it begins.
func ExampleCheckURL() {
	fmt.Println(mongostore.CheckURL("mongodb+srv://app:secret@cluster.example.com/shop", nil))
	fmt.Println(mongostore.CheckURL("mongodb://app:secret@mongo.example.com/shop", nil))
	// Output:
	// <nil>
	// mongostore: not encrypted: mongo.example.com:27017 is not on this machine, and the connection would be readable on the way; add tls=true to the URL, or, where the network itself is encrypted, insecure-plaintext=true
}
