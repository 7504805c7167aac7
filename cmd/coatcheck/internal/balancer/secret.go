package balancer

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
)

// SecretHeader carries [Options.Secret] from the balancer to its workers. It is removed from what comes from outside.
const SecretHeader = "X-Coatcheck-Balancer"

// RequireSecret is the worker's side of [Options.Secret]: it passes on the requests that carry the secret and answers 403 to all others, for
// whoever can reach the worker past its balancer could claim any address in X-Forwarded-For. The header is removed before next sees the
// request, so that no handler can echo it. It panics if the secret is empty, which would let everyone in.
func RequireSecret(secret string, next http.Handler) http.Handler {
	return OnSecret(secret, next, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "403 Forbidden\nThis server answers its balancer only.", http.StatusForbidden)
	}))
}

// OnSecret has the requests that carry the secret in [SecretHeader] answered by one handler, which does not see the header, and all others by
// another. It panics if the secret is empty.
func OnSecret(secret string, knows, others http.Handler) http.Handler {
	if secret == "" {
		panic("balancer: a secret that is empty is known to everyone; serve the handler itself for that")
	}
	want := sha256.Sum256([]byte(secret)) // equal lengths, so that the comparison does not tell the secret's
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		values := r.Header.Values(SecretHeader)
		if len(values) == 1 {
			got := sha256.Sum256([]byte(values[0]))
			if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
				r.Header.Del(SecretHeader)
				knows.ServeHTTP(w, r)
				return
			}
		}
		others.ServeHTTP(w, r)
	})
}
