package integration

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

// redisBadURL returns the error of opening rawURL, which must not hold secret.
func redisBadURL(t *testing.T, rawURL, secret string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := redisstore.OpenURL(ctx, rawURL, nil)
	if err == nil {
		s.Close()
		t.Fatal("OpenURL succeeded")
	}
	if secret != "" && strings.Contains(err.Error(), secret) {
		t.Errorf("the error holds the password: %v", err)
	}
	return err.Error()
}

// TestRedisConnectionErrors: each mistake has an error of its own, which says what
// to do.
func TestRedisConnectionErrors(t *testing.T) {
	const password, wrong = "right-pw-1", "hunter2"
	tlsServer := redisShared(t, "redis-tls")
	tlsAddr := tlsServer.Nodes[0].Addr
	plain := testserver.Start(t, "redis", &testserver.Options{Password: password})
	addr := plain.Nodes[0].Addr
	certs := tlsServer.TLS
	files := func(ca, cert, key string) string {
		return "?" + strings.Join([]string{"ca=" + url.QueryEscape(ca), "cert=" + url.QueryEscape(cert), "key=" + url.QueryEscape(key)}, "&")
	}
	good := files(certs.CA, certs.Cert, certs.Key)
	expired := testserver.Start(t, "redis-tls", &testserver.Options{Config: []string{
		"tls-cert-file ../tls/expired-server.pem", "tls-key-file ../tls/expired-server-key.pem",
	}})
	admin := redisClient(t, plain, addr, password)
	redisDo(t, admin, "ACL", "SETUSER", "weak", "on", ">weak-pw-1", "~*", "-@all", "+ping", "+hello", "+client", "+get")
	redisDo(t, admin, "ACL", "SETUSER", "keyless", "on", ">keyless-pw-1", "~other:*", "+@all")

	cases := []struct{ name, url, secret, want string }{
		{"plaintext to a port with TLS", "redis://" + tlsAddr, "", "use a URL that begins with rediss"},
		{"TLS to a port without", "rediss://x:" + wrong + "@" + addr + good, wrong, "does not speak it on this port"},
		{"a stranger's authority", "rediss://" + tlsAddr + files(certs.OtherCA, certs.Cert, certs.Key), "", "ca=FILE"},
		{"the system's authorities", "rediss://" + tlsAddr + "?cert=" + certs.Cert + "&key=" + certs.Key, "", "ca=FILE"},
		{"an expired server", strings.Replace(expired.URL, "rediss://", "rediss://x:"+wrong+"@", 1), wrong, "renew it if it has expired"},
		{"no client certificate", "rediss://" + tlsAddr + "?ca=" + certs.CA, "", "it may want a client certificate"},
		{"a stranger's client certificate", "rediss://" + tlsAddr + files(certs.CA, certs.OtherCert, certs.OtherKey), "", "it may want a client certificate"},
		{"an expired client certificate", "rediss://" + tlsAddr + files(certs.CA, certs.ExpiredCert, certs.ExpiredKey), "", "it may want a client certificate"},
		{"another name", "rediss://" + tlsAddr + good + "&servername=redis.example.com", "", "servername=NAME"},
		{"no password", "redis://" + addr, "", "put it into the URL"},
		{"a wrong password", "redis://:" + wrong + "@" + addr, wrong, "the user or the password is wrong"},
		{"a wrong password of a user", "redis://weak:" + wrong + "@" + addr, wrong, "the user or the password is wrong"},
		{"an unknown user", "redis://nobody:" + wrong + "@" + addr, wrong, "the user or the password is wrong"},
		{"a client certificate whose key is another's", "rediss://" + tlsAddr + files(certs.CA, certs.Cert, certs.OtherKey), "", "cert and key in the URL: "},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text := redisBadURL(t, c.url, c.secret)
			if !strings.Contains(text, c.want) {
				t.Errorf("%s\nwant something about %q", text, c.want)
			}
			for _, other := range cases {
				if other.want != c.want && strings.Contains(text, other.want) {
					t.Errorf("%s\nis also the advice for %s", text, other.name)
				}
			}
		})
	}

	t.Run("rights", func(t *testing.T) {
		k := numberedKey(1)
		weak := redisOpen(t, "redis://weak:weak-pw-1@"+addr, nil)
		keyless := redisOpen(t, "redis://keyless:keyless-pw-1@"+addr, nil)
		for name, s := range map[string]*redisstore.Store{"a user without a command": weak, "a user without the keys": keyless} {
			err := s.Create(t.Context(), k, redisSession(1, "alice"))
			failed(t, name+": Create", err) // of the script, or from its midst
			if err != nil && !strings.Contains(err.Error(), "the ACL user may not do this") {
				t.Errorf("%s: %v; want something about rights", name, err)
			}
			if err != nil && (strings.Contains(err.Error(), "alice") || strings.Contains(err.Error(), "coatcheck:")) {
				t.Errorf("%s: the error names a key or an owner: %v", name, err)
			}
		}
		if _, err := keyless.Get(t.Context(), k); err == nil || strings.Contains(err.Error(), store.ErrNotFound.Error()) {
			t.Errorf("Get without the right to the key: %v; want an error that is no absence", err)
		}
	})
}
