package session_test

import (
	"context"
	"fmt"
	"log"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// devicesApp shows users where they are signed in and lets them end that. Next
// to each device its page has a button that posts the device's handle. That
// grants nothing: Revoke finds only sessions of the owner that it is given.
func devicesApp(sessions *session.Manager) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		opts := &session.SignInOptions{Label: r.FormValue("device")}
		if err := session.From(r.Context()).SignIn(r.Context(), "alice", opts); err != nil {
			sessions.HandleError(w, r, err)
		}
	})
	mux.HandleFunc("GET /devices", func(w http.ResponseWriter, r *http.Request) {
		s := session.From(r.Context())
		if s.Owner() == "" {
			http.Error(w, "please sign in", http.StatusUnauthorized)
			return
		}
		devices, err := sessions.Sessions(r.Context(), s.Owner())
		if err != nil {
			sessions.HandleError(w, r, err)
			return
		}
		var lines []string
		for _, d := range devices {
			line := d.Label
			if d.Handle == s.Handle() {
				line += " (this one)"
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		_, _ = fmt.Fprintln(w, strings.Join(lines, ", "))
	})
	mux.HandleFunc("POST /devices/revoke", func(w http.ResponseWriter, r *http.Request) {
		h, err := session.ParseHandle(r.PostFormValue("handle"))
		if err != nil {
			http.Error(w, "no such device", http.StatusBadRequest)
			return
		}
		if _, err := sessions.Revoke(r.Context(), session.From(r.Context()).Owner(), h); err != nil {
			sessions.HandleError(w, r, err)
			return
		}
		http.Redirect(w, r, "/devices", http.StatusSeeOther)
	})
	mux.HandleFunc("POST /devices/revoke-others", func(w http.ResponseWriter, r *http.Request) {
		n, err := session.From(r.Context()).RevokeOthers(r.Context())
		if err != nil {
			sessions.HandleError(w, r, err)
			return
		}
		_, _ = fmt.Fprintln(w, "signed out on", n, "other devices")
	})
	return sessions.Handler(mux)
}

// List the devices that a user is signed in on, and end the session of one.
func ExampleManager_Revoke() {
	sessions, err := session.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	app := devicesApp(sessions)
	laptop, phone := newGuest(app), newGuest(app)
	laptop.visit("POST /login?device=laptop")
	phone.visit("POST /login?device=phone")
	laptop.visit("GET /devices")

	// The phone was lost. Its session ends on every server at once.
	devices, err := sessions.Sessions(context.Background(), "alice")
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range devices {
		if d.Label == "phone" {
			found, err := sessions.Revoke(context.Background(), "alice", d.Handle)
			fmt.Println("revoked:", found, err)
		}
	}
	phone.visit("GET /devices")
	laptop.visit("GET /devices")
	// Output:
	// POST /login?device=laptop: 200
	// POST /login?device=phone: 200
	// GET /devices: 200 laptop (this one), phone
	// revoked: true <nil>
	// GET /devices: 401 please sign in
	// GET /devices: 200 laptop (this one)
}

// Sign out everywhere else, as after a change of password. A stolen copy of this
// device's cookie is signed out too.
func ExampleSession_RevokeOthers() {
	sessions, err := session.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	app := devicesApp(sessions)
	laptop, phone, thief := newGuest(app), newGuest(app), newGuest(app)
	phone.visit("POST /login?device=phone")
	laptop.visit("POST /login?device=laptop")
	maps.Copy(thief.cookies, laptop.cookies)
	laptop.visit("POST /devices/revoke-others")
	phone.visit("GET /devices")
	thief.visit("GET /devices")
	laptop.visit("GET /devices")
	// Output:
	// POST /login?device=phone: 200
	// POST /login?device=laptop: 200
	// POST /devices/revoke-others: 200 signed out on 1 other devices
	// GET /devices: 401 please sign in
	// GET /devices: 401 please sign in
	// GET /devices: 200 laptop (this one)
}

// End every session of an account, as when it is disabled.
func ExampleManager_RevokeAll() {
	sessions, err := session.New(memstore.New(), nil)
	if err != nil {
		log.Fatal(err)
	}
	app := devicesApp(sessions)
	laptop, phone := newGuest(app), newGuest(app)
	phone.visit("POST /login?device=phone")
	laptop.visit("POST /login?device=laptop")
	fmt.Println(sessions.RevokeAll(context.Background(), "alice"))
	phone.visit("GET /devices")
	laptop.visit("GET /devices")
	// Output:
	// POST /login?device=phone: 200
	// POST /login?device=laptop: 200
	// 2 <nil>
	// GET /devices: 401 please sign in
	// GET /devices: 401 please sign in
}
