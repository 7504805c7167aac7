package up

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestShoppersTrustTheShopAlone: its certificate is taken for what it is, whoever signed
// it and for whatever name, and no other one.
func TestShoppersTrustTheShopAlone(t *testing.T) {
	shop := httptest.NewTLSServer(http.NotFoundHandler())
	defer shop.Close()
	get := func(certificates []tls.Certificate) error {
		tr := &http.Transport{TLSClientConfig: onlyThis(certificates)}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(shop.URL)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	own := shop.TLS.Certificates
	if err := get(own); err != nil {
		t.Errorf("the shop's own certificate: %v", err)
	}
	other := tls.Certificate{Certificate: [][]byte{append([]byte{}, own[0].Certificate[0]...)}}
	other.Certificate[0][len(other.Certificate[0])-1] ^= 1 // another signature
	if err := get([]tls.Certificate{other}); err == nil {
		t.Error("another certificate is taken for the shop's")
	}
	if onlyThis(nil) != nil {
		t.Error("a shop without a certificate has a configuration of TLS")
	}
}
