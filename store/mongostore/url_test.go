package mongostore

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"
)

func TestURL(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"mongodb://localhost", ""},
		{"mongodb://127.0.0.1:10017,[::1]:10018/shop?replicaSet=rs0", ""},
		{"mongodb://app:p%40ss%2F%3A@localhost/shop?authSource=admin&collection=app.sessions", ""},
		{"mongodb://localhost?retryWrites=true&w=majority&readPreference=primary&readConcernLevel=majority&journal=true&appName=shop", ""},
		{"mongodb://mongo.example.com/?tls=true", ""},
		{"mongodb://mongo.example.com/?ssl=true&servername=mongo", ""},
		{"mongodb://10.0.0.1,10.0.0.2:1/?insecure-plaintext=true", ""},
		{"mongodb+srv://app:pw@cluster.example.com/shop?retryWrites=true&w=majority", ""},
		{"hunter2", "does not begin with mongodb://"},
		{"mongo://hunter2@localhost", "does not begin with mongodb://"},
		{"mongodb://", "no host"},
		{"mongodb://a,,b", "no host"},
		{"mongodb://app:hunter2%zz@localhost", "not of the form"},
		{"mongodb://:hunter2@localhost", "not of the form"},
		{"mongodb://app:hun/ter2@localhost", "host that is not of the form"},
		{"mongodb://app:hun?ter2@localhost", "host that is not of the form"},
		{"mongodb://localhost:hunter2", "host that is not of the form"},
		{"mongodb://localhost:70000", "host that is not of the form"},
		{"mongodb://localhost/a/hunter2", "not the name of a database"},
		{"mongodb://localhost/hunter2 x", "not the name of a database"},
		{"mongodb://localhost/" + strings.Repeat("x", 64), "1 to 63"},
		{"mongodb://localhost?collection=system.users", "does not begin with system"},
		{"mongodb://localhost?collection=hunter2$", "1 to 120"},
		{"mongodb://localhost?hunter2=x", "not known"},
		{"mongodb://localhost?tls=true&TLS=true", "tls twice"},
		{"mongodb://localhost?appName=", "appname without a value"},
		{"mongodb://localhost?tls=hunter2", "either true or false"},
		{"mongodb://localhost?tlsInsecure=true", "would trust anybody"},
		{"mongodb://localhost?tls=true&tlsAllowInvalidHostnames=true", "would trust anybody"},
		{"mongodb://localhost?ca=x.pem", "add tls=true"},
		{"mongodb://localhost?tls=true&ca=/nowhere/x.pem", "ca in the URL: "},
		{"mongodb://localhost?tls=true&tlsCAFile=/nowhere/x.pem", "ca in the URL: "},
		{"mongodb://localhost?tls=true&cert=x.pem", "go together"},
		{"mongodb://localhost?tls=true&tlsCertificateKeyFile=/nowhere/x.pem", "cert and key in the URL: "},
		{"mongodb://localhost?w=1", "w in the URL can only be majority"},
		{"mongodb://localhost?readPreference=secondary", "can only be primary"},
		{"mongodb://localhost?readConcernLevel=local", "can only be majority"},
		{"mongodb://localhost?insecure-plaintext=yes", "can only be true"},
		{"mongodb://localhost?maxPoolSize=hunter2", "the driver refuses the URL"},
		{"mongodb://localhost,127.0.0.1?directConnection=true", "the driver refuses the URL"},
		{"mongodb://mongo.example.com", "mongo.example.com:27017 is not on this machine"},
		{"mongodb://localhost,mongo.example.com:1", "not encrypted"},
		{"mongodb://localhost.example.com", "not encrypted"},
		{"mongodb+srv://cluster.example.com:27017", "has a port"},
		{"mongodb+srv://a.example.com,b.example.com", "several hosts"},
		{"mongodb+srv://cluster.example.com?tls=false", "not encrypted"},
	} {
		err := CheckURL(c.url, nil)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v; want no error", c.url, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v; want it to say %q", c.url, err, c.want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("the error holds a secret: %v", err)
		}
	}
}

// TestURLForTheDriver: what the driver is told is what the URL says, and no more.
func TestURLForTheDriver(t *testing.T) {
	var o Options
	p, err := parseURL("mongodb://a%2Fb:p@ss%3A%40%20%25@localhost,[::1]:7/shop?authSource=admin&maxPoolSize=5&retryWrites=true&collection=c", &o)
	if err != nil {
		t.Fatal(err)
	}
	set, err := p.options()
	if err != nil {
		t.Fatal(err)
	}
	if a := set.Auth; a == nil || a.Username != "a/b" || a.Password != "p@ss:@ %" || a.AuthSource != "admin" {
		t.Error("the login is not that of the URL")
	}
	if got := strings.Join(set.Hosts, " "); got != "localhost:27017 [::1]:7" {
		t.Errorf("the hosts are %s", got)
	}
	if set.MaxPoolSize == nil || *set.MaxPoolSize != 5 || set.RetryWrites != nil || set.TLSConfig != nil {
		t.Error("a parameter is not passed on, or one that should not")
	}
	if o.Database != "shop" || o.Collection != "c" || o.encrypted != encryptionLocal {
		t.Errorf("the options are %+v", o)
	}

	p, err = parseURL("mongodb://app@localhost?tls=true&servername=mongo", &o)
	if err != nil {
		t.Fatal(err)
	}
	if set, err = p.options(); err != nil {
		t.Fatal(err)
	}
	c := set.TLSConfig
	if c == nil || c.InsecureSkipVerify || c.ServerName != "mongo" || c.MinVersion != tls.VersionTLS12 {
		t.Error("TLS is not as the URL says")
	}
	if set.Auth == nil || set.Auth.AuthSource != "admin" {
		t.Error("without a database the user is one of admin")
	}
}

// TestServersNamedByServers: a server that is not in the URL is looked at as well.
func TestServersNamedByServers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		url  string
		safe bool
	}{
		{"mongodb://localhost", true},
		{"mongodb://localhost?insecure-plaintext=true", false},
	} {
		p, err := parseURL(c.url, &Options{})
		if err != nil {
			t.Fatal(err)
		}
		set, err := p.options()
		if err != nil {
			t.Fatal(err)
		}
		_, err = set.Dialer.DialContext(t.Context(), "tcp", "mongo.invalid:27017")
		if err == nil {
			t.Fatal("there is a host mongo.invalid")
		}
		if refused := strings.Contains(err.Error(), "not encrypted"); refused != c.safe {
			t.Errorf("%s: to another machine: %v", c.url, err)
		}
		conn, err := set.Dialer.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Errorf("%s: to this machine: %v", c.url, err)
			continue
		}
		conn.Close()
	}
}

// TestNobodyListens: OpenURL ends, soon, and says what it has tried.
func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	began := time.Now()
	s, err := OpenURL(t.Context(), "mongodb://app:hunter2@"+addr+"/shop?serverSelectionTimeoutMS=200", nil)
	if err == nil {
		s.Close()
		t.Fatal("OpenURL succeeded")
	}
	if text := err.Error(); !strings.Contains(text, "connect to "+addr) || !strings.Contains(text, "refused") || strings.Contains(text, "hunter2") {
		t.Errorf("after %v: %v; want the address, and why", time.Since(began), err)
	}
}
