package redisstore

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestURLForms(t *testing.T) {
	type parts struct {
		addrs                 string // with spaces between
		user, password        string
		primary, sUser, sPass string
		database              int
		tls, single           bool
		prefix, servername    string
		replicas              int
		replicaTimeout        time.Duration
	}
	for _, c := range []struct {
		url  string
		want parts
	}{
		{"redis://localhost", parts{addrs: "localhost:6379", single: true}},
		{"redis://localhost/", parts{addrs: "localhost:6379", single: true}},
		{"redis://127.0.0.1:7000/15", parts{addrs: "127.0.0.1:7000", database: 15, single: true}},
		{"valkey://127.0.0.1", parts{addrs: "127.0.0.1:6379", single: true}},
		{"rediss://redis.example.com", parts{addrs: "redis.example.com:6379", tls: true, single: true}},
		{"valkeys://redis.example.com:1", parts{addrs: "redis.example.com:1", tls: true, single: true}},
		{"rediss://app:secret@h/0", parts{addrs: "h:6379", user: "app", password: "secret", tls: true, single: true}},
		{"rediss://:secret@h", parts{addrs: "h:6379", password: "secret", tls: true, single: true}},
		{"rediss://app@h", parts{addrs: "h:6379", user: "app", tls: true, single: true}},
		{"rediss://a%3Ab:p%40s%3As%2Fw%3F%23%25%20+@h", parts{addrs: "h:6379", user: "a:b", password: "p@s:s/w?#% +", tls: true, single: true}},
		{"rediss://app:a:b@c@h", parts{addrs: "h:6379", user: "app", password: "a:b@c", tls: true, single: true}},
		{"redis://[::1]", parts{addrs: "[::1]:6379", single: true}},
		{"redis://[::1]:7000/2", parts{addrs: "[::1]:7000", database: 2, single: true}},
		{"rediss://[2001:db8::1]:7000", parts{addrs: "[2001:db8::1]:7000", tls: true, single: true}},
		{"redis+sentinel://127.0.0.1,127.0.0.1:5000,[::1]/my-main.1_a", parts{addrs: "127.0.0.1:26379 127.0.0.1:5000 [::1]:26379", primary: "my-main.1_a"}},
		{"rediss+sentinel://app:pw@a,b/main/3?sentinel-user=su&sentinel-password=s%26p", parts{
			addrs: "a:26379 b:26379", user: "app", password: "pw", primary: "main", database: 3, sUser: "su", sPass: "s&p", tls: true,
		}},
		{"valkeys+sentinel://a/main", parts{addrs: "a:26379", primary: "main", tls: true}},
		{"redis+cluster://127.0.0.1:7000,127.0.0.1:7001,localhost", parts{addrs: "127.0.0.1:7000 127.0.0.1:7001 localhost:6379"}},
		{"rediss+cluster://a,b/0", parts{addrs: "a:6379 b:6379", tls: true}},
		{"valkey+cluster://127.1.2.3", parts{addrs: "127.1.2.3:6379"}},
		{"redis://[::ffff:127.0.0.1]", parts{addrs: "[::ffff:127.0.0.1]:6379", single: true}},
		{"redis://10.0.0.1?insecure-plaintext=true", parts{addrs: "10.0.0.1:6379", single: true}},
		{"rediss://h?prefix=shop:&min-replicas=2&replica-timeout=250ms&servername=x.example", parts{
			addrs: "h:6379", tls: true, single: true, prefix: "shop:", replicas: 2, replicaTimeout: 250 * time.Millisecond, servername: "x.example",
		}},
	} {
		t.Run(c.url, func(t *testing.T) {
			if err := CheckURL(c.url, nil); err != nil {
				t.Fatal(err)
			}
			var o Options
			co, err := parseURL(c.url, &o)
			if err != nil {
				t.Fatal(err)
			}
			got := parts{
				addrs: strings.Join(co.InitAddress, " "), user: co.Username, password: co.Password,
				primary: co.Sentinel.MasterSet, sUser: co.Sentinel.Username, sPass: co.Sentinel.Password,
				database: co.SelectDB, tls: co.TLSConfig != nil, single: co.ForceSingleClient,
				prefix: o.Prefix, replicas: o.MinReplicas, replicaTimeout: o.ReplicaTimeout,
			}
			if co.TLSConfig != nil {
				got.servername = co.TLSConfig.ServerName
				if co.TLSConfig.InsecureSkipVerify {
					t.Error("the server's certificate is not verified")
				}
			}
			if got != c.want {
				t.Errorf("read as %+v; want %+v", got, c.want)
			}
			if got.primary != "" && (co.Sentinel.TLSConfig != nil) != got.tls {
				t.Error("Sentinels are asked with TLS and their primary without, or the other way round")
			}
		})
	}
}

// TestURLErrors: each says what to do, and none holds a password, whatever is wrong
// with the URL around it.
func TestURLErrors(t *testing.T) {
	dir := t.TempDir()
	noPEM := filepath.Join(dir, "no.pem")
	if err := os.WriteFile(noPEM, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	const form = "special characters in a password are written as %XX"
	for _, c := range []struct{ url, want string }{
		{"", "does not begin with redis://"},
		{"hunter2", "does not begin with redis://"},
		{"app:hunter2@localhost", "does not begin with redis://"},
		{"http://app:hunter2@localhost", "does not begin with redis://"},
		{"redis+tls://app:hunter2@localhost", "does not begin with redis://"},
		{"redis+://app:hunter2@localhost", "does not begin with redis://"},
		{"rediss+sentinel+cluster://app:hunter2@localhost", "does not begin with redis://"},
		{"redis:app:hunter2@localhost", "does not begin with redis://"},
		{"redis://", "has no host"},
		{"redis://app:hunter2@", "has no host"},
		{"redis://app:hunter2@/0", "has no host"},
		{"redis+cluster://app:hunter2@localhost,", "a comma too many"},
		{"redis://app:hunter2@:6379", "host:port"},
		{"redis://app:hunter2@localhost:", "host:port"},
		{"redis://app:hunter2@localhost:0", "host:port"},
		{"redis://app:hunter2@localhost:65536", "host:port"},
		{"redis://app:hunter2@localhost:redis", "host:port"},
		{"redis://app:hunter2@localhost,127.0.0.1", "several hosts"},
		{"redis://app:hunter2@localhost/x", "not the number of a database"},
		{"redis://app:hunter2@localhost/-1", "not the number of a database"},
		{"redis://app:hunter2@localhost/1/2", "not the number of a database"},
		{"redis+cluster://app:hunter2@localhost/1", "database 0 alone"},
		{"redis+sentinel://app:hunter2@localhost", "names their primary"},
		{"redis+sentinel://app:hunter2@localhost/my%20main", "letters, digits and"},
		{"redis+sentinel://app:hunter2@localhost/main/x", "not the number of a database"},
		{"redis://app:hunter2@localhost#x", form},
		{"redis://app:hunter2@local host", form},
		{"redis://app:hunter2%zz@localhost", form},
		{"redis://app%zz:hunter2@localhost", form},
		{"redis://app:hunter2@localhost?prefix=%zz", form},
		// A password whose special characters are written as they are.
		{"redis://app:hunter2/x@localhost", "host:port"},
		{"redis://app:1/hunter2@localhost", "not the number of a database"},
		{"redis+sentinel://app:1/hunter2@localhost/main", "letters, digits and"},
		{"redis://app:hunter2?x@localhost", "host:port"},
		{"redis://app:1?hunter2@localhost", "a parameter that is not known"},
		{"redis://app:1?hunter2=x@localhost", "a parameter that is not known"},
		{"redis://app:1#hunter2@localhost", form},
		{"redis://app:hunter2%@localhost", form},
		{"redis://app:hunter2@localhost?colour=red", "known are prefix,"},
		{"redis://app:hunter2@localhost?prefix=a:&prefix=b:", "prefix twice"},
		{"redis://app:hunter2@localhost?prefix=", "prefix without a value"},
		{"redis://app:hunter2@localhost?prefix={a}", "one slot"},
		{"redis://app:hunter2@localhost?min-replicas=0", "not a positive number"},
		{"redis://app:hunter2@localhost?min-replicas=-1", "not a positive number"},
		{"redis://app:hunter2@localhost?min-replicas=x", "not a positive number"},
		{"redis://app:hunter2@localhost?replica-timeout=5", "not a positive time"},
		{"redis://app:hunter2@localhost?replica-timeout=-5s", "not a positive time"},
		{"redis://app:hunter2@localhost?insecure-plaintext=yes", "can only be true"},
		{"redis://app:hunter2@localhost?sentinel-password=hunter2", "a parameter that is not known"},
		{"redis://app:hunter2@localhost?ca=x.pem", "begin the URL with rediss"},
		{"redis://app:hunter2@localhost?servername=x", "begin the URL with rediss"},
		{"rediss://app:hunter2@localhost?ca=" + filepath.Join(dir, "absent.pem"), "absent.pem: no such file"},
		{"rediss://app:hunter2@localhost?ca=" + noPEM, "holds no certificate in PEM"},
		{"rediss://app:hunter2@localhost?cert=" + noPEM, "give both or none"},
		{"rediss://app:hunter2@localhost?key=" + noPEM, "give both or none"},
		{"rediss://app:hunter2@localhost?cert=" + noPEM + "&key=" + noPEM, "cert and key in the URL: tls: failed to find any PEM data"},
		{"redis://app:hunter2@redis.example.com", "redis.example.com:6379 is not on this machine"},
		{"redis://app:hunter2@10.0.0.1", "begin the URL with rediss"},
		{"redis://app:hunter2@0.0.0.0", "insecure-plaintext=true"},
		{"redis://app:hunter2@[2001:db8::1]:7000", "[2001:db8::1]:7000 is not on this machine"},
		{"redis://app:hunter2@localhost.example.com", "is not on this machine"},
		{"redis://app:hunter2@127.0.0.1.example.com", "is not on this machine"},
		{"redis+sentinel://app:hunter2@localhost,10.0.0.2/main", "10.0.0.2:26379 is not on this machine"},
		{"redis+cluster://app:hunter2@127.0.0.1,10.0.0.2", "10.0.0.2:6379 is not on this machine"},
	} {
		t.Run(c.url, func(t *testing.T) {
			err := CheckURL(c.url, nil)
			if err == nil {
				t.Fatalf("no error; want one that says %q", c.want)
			}
			if text := err.Error(); !strings.HasPrefix(text, "redisstore: ") || !strings.Contains(text, c.want) {
				t.Errorf("%q; want it to say %q", text, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error holds the password: %q", err)
			}
			s, oErr := OpenURL(t.Context(), c.url, nil)
			if s != nil || oErr == nil || oErr.Error() != err.Error() {
				t.Errorf("OpenURL says %v, and CheckURL %v", oErr, err)
			}
		})
	}
}

func TestURLGoesOverOptions(t *testing.T) {
	o := Options{Prefix: "a:", MinReplicas: 1, ReplicaTimeout: time.Second}
	if _, err := parseURL("redis://localhost", &o); err != nil || o.Prefix != "a:" || o.MinReplicas != 1 || o.ReplicaTimeout != time.Second {
		t.Errorf("a URL without parameters has changed the options to %+v, %v", o, err)
	}
	given := &Options{Prefix: "a:"}
	if err := CheckURL("redis://localhost?prefix=b:", given); err != nil || *given != (Options{Prefix: "a:"}) {
		t.Errorf("the caller's options became %+v, %v", *given, err)
	}
	if err := CheckURL("redis://localhost", &Options{MinReplicas: -1}); err == nil || !strings.Contains(err.Error(), "negative") {
		t.Errorf("CheckURL with options that make no sense: %v", err)
	}
}

// TestServersThatAreAnnounced: Sentinels and clusters tell addresses that no URL
// has named. The password is not sent there in plaintext either.
func TestServersThatAreAnnounced(t *testing.T) {
	var d net.Dialer
	refuse, allow := dialer(false), dialer(true)
	for _, addr := range []string{"10.255.255.1:6379", "redis.example.com:6379", "[2001:db8::1]:6379", "localhost.example.com:1"} {
		c, err := refuse(t.Context(), addr, &d, nil)
		if c != nil || !errors.Is(err, errPlaintext) || !strings.Contains(err.Error(), addr) {
			t.Errorf("connecting to %s without TLS: %v; want a refusal that names it", addr, err)
		}
	}
	// Allowed ones are dialled: a context that has ended is noticed only there.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := allow(ended, "10.255.255.1:6379", &d, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("insecure-plaintext=true: %v; want an attempt to connect", err)
	}
	for _, addr := range []string{"127.0.0.1:6379", "[::1]:6379", "localhost:6379"} {
		if _, err := refuse(ended, addr, &d, nil); errors.Is(err, errPlaintext) {
			t.Errorf("connecting to %s: %v; want an attempt to connect", addr, err)
		}
	}
}

// TestEveryConnectionIsGuarded: the guard is on all clients that a URL makes.
func TestEveryConnectionIsGuarded(t *testing.T) {
	for _, u := range []string{"redis://localhost", "redis+cluster://localhost", "redis+sentinel://localhost/main"} {
		co, err := parseURL(u, &Options{})
		if err != nil {
			t.Fatal(err)
		}
		if co.DialCtxFn == nil {
			t.Fatalf("%s: nothing looks at the addresses that the servers tell", u)
		}
		if _, err := co.DialCtxFn(t.Context(), "10.255.255.1:6379", &co.Dialer, nil); !errors.Is(err, errPlaintext) {
			t.Errorf("%s: %v; want a refusal", u, err)
		}
		if co.SendToReplicas != nil || co.ReplicaOnly {
			t.Errorf("%s: reads may go to replicas, which are behind", u)
		}
		if co.ConnWriteTimeout > 2*time.Second || co.Dialer.Timeout > time.Second {
			t.Errorf("%s: a server that does not answer holds a request for too long", u)
		}
	}
}

// TestOpenURLRefused: nobody listens. The error names the address and hides the
// password.
func TestOpenURLRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for _, u := range []string{"redis://app:hunter2@" + addr, "redis+cluster://app:hunter2@" + addr, "redis+sentinel://app:hunter2@" + addr + "/main"} {
		s, err := OpenURL(t.Context(), u, nil)
		if s != nil || err == nil || !strings.Contains(err.Error(), addr) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("OpenURL returned %v, %v; want an error that names %s and no password", s, err, addr)
		}
	}
}
