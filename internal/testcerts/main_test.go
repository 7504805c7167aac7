package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestHandshakes(t *testing.T) {
	dir := t.TempDir()
	if err := write(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	for _, c := range []struct {
		server, client string // certificates
		serverCA       string // whom the client trusts
		clientOf       any    // the server's reason to refuse the client
		serverOf       any    // the client's reason to refuse the server
		host           string
	}{
		{server: "server", client: "client", serverCA: "ca", host: "localhost"},
		{server: "server", client: "client", serverCA: "ca", host: "127.0.0.1"},
		{server: "server", client: "client", serverCA: "ca", host: "::1"},
		{server: "other-server", client: "client", serverCA: "other-ca", host: "localhost"},
		{server: "server", client: "client", serverCA: "other-ca", host: "localhost", serverOf: &unknown},
		{server: "other-server", client: "client", serverCA: "ca", host: "localhost", serverOf: &unknown},
		{server: "expired-server", client: "client", serverCA: "ca", host: "localhost", serverOf: &invalid},
		{server: "server", client: "other-client", serverCA: "ca", host: "localhost", clientOf: &unknown},
		{server: "server", client: "expired-client", serverCA: "ca", host: "localhost", clientOf: &invalid},
		{server: "server", client: "server", serverCA: "ca", host: "localhost", clientOf: &invalid},
		{server: "client", client: "client", serverCA: "ca", host: "localhost", serverOf: new(x509.HostnameError)},
	} {
		name := c.server + " for " + c.host + " trusted by " + c.serverCA + ", " + c.client
		t.Run(name, func(t *testing.T) {
			client, server := handshake(t, dir, c.server, c.client, c.serverCA, c.host)
			check(t, "the client", client, c.serverOf)
			check(t, "the server", server, c.clientOf)
		})
	}
}

func check(t *testing.T, who string, err error, want any) {
	t.Helper()
	var remote *net.OpError // the other side's alert
	switch {
	case want == nil && err != nil && !errors.As(err, &remote):
		t.Errorf("%s refuses a good certificate: %v", who, err)
	case want != nil && !errors.As(err, want):
		t.Errorf("%s answers %v, want an error of type %T", who, err, want)
	}
}

// handshake returns how a TLS handshake ended for either side.
func handshake(t *testing.T, dir, server, client, serverCA, host string) (clientErr, serverErr error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	a, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		s := tls.Server(b, &tls.Config{
			Certificates: []tls.Certificate{pair(t, dir, server)},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    pool(t, dir, "ca"),
			MinVersion:   tls.VersionTLS13,
		})
		err := s.Handshake()
		b.Close()
		done <- err
	}()
	cert := pair(t, dir, client)
	c := tls.Client(a, &tls.Config{
		// Not Certificates: of those a client sends only what the server says it accepts.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
		RootCAs:              pool(t, dir, serverCA),
		ServerName:           host,
	})
	clientErr = c.Handshake()
	if clientErr == nil {
		c.Read(make([]byte, 1)) // the server's verdict and its end
	}
	a.Close()
	return clientErr, <-done
}

func pair(t *testing.T, dir, name string) tls.Certificate {
	c, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem"))
	if err != nil {
		t.Error(err)
	}
	return c
}

func pool(t *testing.T, dir, name string) *x509.CertPool {
	data, err := os.ReadFile(filepath.Join(dir, name+".pem"))
	if err != nil {
		t.Error(err)
	}
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(data)
	return p
}
