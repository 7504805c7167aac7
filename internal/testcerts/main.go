// Command testcerts writes the certificates that tests of TLS need into a folder:
// those with which all is well, those of a stranger, and those that are out of date.
//
//	go run ./internal/testcerts DIR
//
// Each is NAME.pem with its key in NAME-key.pem: ca; server (for localhost,
// 127.0.0.1 and ::1) and client, signed by it; other-ca, other-server and
// other-client; expired-server and expired-client, signed by ca. They are made
// anew at each call, for a key that is committed would be trusted somewhere.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: testcerts DIR")
		os.Exit(2)
	}
	if err := write(os.Args[1], time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "testcerts:", err)
		os.Exit(1)
	}
}

// write makes dir and all the certificates in it.
func write(dir string, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, prefix := range []string{"", "other-"} {
		ca, err := newAuthority(dir, prefix+"ca", now)
		if err != nil {
			return err
		}
		if err := ca.issue(prefix+"server", x509.ExtKeyUsageServerAuth, now.Add(day)); err != nil {
			return err
		}
		if err := ca.issue(prefix+"client", x509.ExtKeyUsageClientAuth, now.Add(day)); err != nil {
			return err
		}
		if prefix != "" {
			continue
		}
		if err := ca.issue("expired-server", x509.ExtKeyUsageServerAuth, now.Add(-time.Hour)); err != nil {
			return err
		}
		if err := ca.issue("expired-client", x509.ExtKeyUsageClientAuth, now.Add(-time.Hour)); err != nil {
			return err
		}
	}
	return nil
}

const day = 24 * time.Hour

// authority signs certificates.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(dir, name string, now time.Time) (*authority, error) {
	a := &authority{dir: dir, cert: &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Coatcheck tests: " + name},
		NotBefore:             now.Add(-2 * day),
		NotAfter:              now.Add(2 * day),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}}
	key, err := a.sign(name, a.cert, nil)
	a.key = key
	return a, err
}

// issue writes a certificate that is valid until notAfter.
func (a *authority) issue(name string, usage x509.ExtKeyUsage, notAfter time.Time) error {
	cert := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		NotBefore:   a.cert.NotBefore,
		NotAfter:    notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	if usage == x509.ExtKeyUsageServerAuth {
		cert.DNSNames = []string{"localhost"}
		cert.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	_, err := a.sign(name, cert, a.key)
	return err
}

// sign writes cert under a new key, which it returns. With a nil signer the
// certificate signs itself.
func (a *authority) sign(name string, cert *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := a.save(name+".pem", "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return key, a.save(name+"-key.pem", "PRIVATE KEY", private)
}

func (a *authority) save(name, kind string, der []byte) error {
	data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return os.WriteFile(filepath.Join(a.dir, name), data, 0o600)
}
