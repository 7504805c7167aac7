package balancer

import "net/http"

// home returns the name of the upstream that the client belongs to, with [Options.Sticky]; "" if to none.
func (b *Balancer) home(req *http.Request) string {
	if b.opts.Sticky == "" {
		return ""
	}
	c, err := req.Cookie(b.opts.Sticky)
	if err != nil {
		return ""
	}
	return c.Value
}

// settle makes the client belong to the upstream that has answered it.
func (b *Balancer) settle(up *upstream, home string, resp *http.Response) {
	if b.opts.Sticky == "" || up.name == home {
		return
	}
	c := http.Cookie{Name: b.opts.Sticky, Value: up.name, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}
	resp.Header.Add("Set-Cookie", c.String())
}
