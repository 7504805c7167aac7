package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/session"
	fiberredis "github.com/gofiber/storage/redis/v3"
	"github.com/valyala/fasthttp"
)

func openFiber(_ context.Context, url string) (*app, error) {
	st := fiberredis.New(fiberredis.Config{URL: url, PoolSize: concurrency})
	f := fiber.New()
	f.Use(session.New(session.Config{Storage: st, IdleTimeout: idle, AbsoluteTimeout: absolute}))
	get := func(c fiber.Ctx, name string) string {
		text, _ := session.FromContext(c).Get(name).(string)
		return text
	}
	f.Get("/signin", func(c fiber.Ctx) error {
		s := session.FromContext(c)
		for _, name := range []string{"user", "name", "cart"} {
			s.Set(name, fiber.Query[string](c, name))
		}
		return c.SendString("ok")
	})
	signedIn := func(f func(c fiber.Ctx, user string) (string, error)) fiber.Handler {
		return func(c fiber.Ctx) error {
			user := get(c, "user")
			if user == "" {
				return c.SendStatus(http.StatusUnauthorized)
			}
			text, err := f(c, user)
			if err != nil {
				return err
			}
			return c.SendString(text)
		}
	}
	f.Get("/read", signedIn(func(c fiber.Ctx, user string) (string, error) {
		return user + " " + get(c, "name"), nil
	}))
	f.Get("/all", signedIn(func(c fiber.Ctx, user string) (string, error) {
		n, err := quantity(get(c, "cart"))
		return fmt.Sprintf("%s %s %d", user, get(c, "name"), n), err
	}))
	f.Get("/write", signedIn(func(c fiber.Ctx, _ string) (string, error) {
		cart, err := addOne(get(c, "cart"))
		if err == nil {
			session.FromContext(c).Set("cart", cart)
		}
		return "ok", err
	}))
	h := f.Handler()
	return &app{
		signIn: func(_ context.Context, i int) (string, error) {
			c := newFastContext()
			c.Request.SetRequestURI(signInURL("", i))
			h(c)
			id := string(c.Response.Header.PeekCookie("session_id"))
			cookie, err := http.ParseSetCookie(id)
			if err != nil {
				return "", fmt.Errorf("no session cookie: %w", err)
			}
			return cookie.Name + "=" + cookie.Value, checkOK(i, c.Response.StatusCode(), c.Response.Body())
		},
		read:  inFastHTTP(h, "/read", checkGreeting),
		all:   inFastHTTP(h, "/all", checkCart),
		write: inFastHTTP(h, "/write", checkOK),
		close: func() { _ = f.Shutdown(); _ = st.Close() },
	}, nil
}

// newFastContext returns a request as fasthttp's server keeps it for a
// connection.
func newFastContext() *fasthttp.RequestCtx {
	var c fasthttp.RequestCtx
	c.Init(&fasthttp.Request{}, nil, nil)
	return &c
}

// inFastHTTP is inProcess for handlers of fasthttp: as its server does, a worker
// uses one request for all that it does.
func inFastHTTP(h fasthttp.RequestHandler, path string, check func(i, status int, body []byte) error) page {
	return func(int) op {
		c := newFastContext()
		return func(i int, cookie string) ([]byte, error) {
			c.ResetUserValues()
			c.Request.Reset()
			c.Response.Reset()
			c.Request.SetRequestURI(path)
			c.Request.Header.Set("Cookie", cookie)
			h(c)
			body := c.Response.Body()
			return body, check(i, c.Response.StatusCode(), body)
		}
	}
}
