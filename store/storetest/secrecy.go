package storetest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var secrecyRules = []rule{{
	name: "errors-name-no-secret",
	says: "No error holds a Key, an owner, a label or data.",
	why: "Errors end in logs, which more people read than the store. Drivers print keys in duplicate-key errors " +
		"(MariaDB 1062, MongoDB E11000).",
	look: "driver errors that are wrapped; map the known ones to the contract's, and never format arguments.",
	run: func(x *script) {
		const owner, label, data = "needle-owner", "needle-label", "needle-data"
		r := x.session(owner)
		r.Label, r.Data = []byte(label), []byte(data)
		k, absent := x.created(r), x.key()
		next := x.changed(r)
		next.Label, next.Data = r.Label, r.Data

		errs := make(map[string]error)
		ended, cancel := context.WithCancel(x.ctx)
		cancel()
		for name, call := range calls(x.store, k, r, absent, next) {
			errs[name+" with an ended context"] = call(ended)
		}
		bad := next
		bad.Expires = bad.Deadline.Add(time.Second)
		long := next
		long.Owner = strings.Repeat(owner, store.MaxOwner)
		wide := next
		wide.Label = []byte(strings.Repeat(label, store.MaxLabel))
		for name, bad := range map[string]store.Record{"a late expiry": bad, "a long owner": long, "a long label": wide} {
			errs["Create with "+name] = x.store.Create(x.ctx, absent, bad)
			errs["Replace with "+name] = x.store.Replace(x.ctx, k, r.Version, bad)
		}
		if x.c.MaxData > 0 {
			large := next
			large.Data = []byte(strings.Repeat(data, x.c.MaxData/len(data)+1))
			errs["Create with much data"] = x.store.Create(x.ctx, absent, large)
		}
		_, errs["Get of nothing"] = x.store.Get(x.ctx, absent)
		errs["Create over a live record"] = x.store.Create(x.ctx, k, r)
		errs["Replace of another version"] = x.store.Replace(x.ctx, k, r.Version+9, next)
		errs["Replace of nothing"] = x.store.Replace(x.ctx, absent, r.Version, next)
		errs["Touch of nothing"] = x.store.Touch(x.ctx, absent, r.Expires)
		errs["Touch with a zero time"] = x.store.Touch(x.ctx, k, time.Time{})

		secrets := map[string][]byte{"the key": k[:], "the key of nothing": absent[:], "the owner": []byte(owner), "the label": []byte(label), "the data": []byte(data)}
		for call, err := range errs {
			if err == nil {
				continue
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
				for what, secret := range secrets {
					if how := shows(text, secret); how != "" {
						x.Errorf("%s: the error holds %s, %s", call, what, how)
					}
				}
			}
		}
	},
}}

// shows reports how text shows secret, or a good part of it, if it does.
func shows(text string, secret []byte) string {
	part := secret[:min(len(secret), 9)] // 9: a whole number of base64 groups, which have no padding
	quoted := strconv.Quote(string(part))
	lower := strings.ToLower(text)
	for how, form := range map[string]string{
		"as it is":         string(part),
		"quoted":           quoted[1 : len(quoted)-1],
		"as ASCII":         strings.Trim(strconv.QuoteToASCII(string(part)), `"`),
		"in base64":        base64.StdEncoding.EncodeToString(part),
		"in base64url":     base64.URLEncoding.EncodeToString(part),
		"as decimal bytes": strings.Trim(fmt.Sprint(part), "[]"),
		"as Go bytes":      strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", part), "[]byte{"), "}"),
	} {
		if strings.Contains(text, form) {
			return how
		}
	}
	if strings.Contains(lower, hex.EncodeToString(part)) {
		return "in hexadecimal"
	}
	return ""
}
