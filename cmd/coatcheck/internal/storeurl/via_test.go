package storeurl

import "testing"

func TestVia(t *testing.T) {
	for raw, want := range map[string][2]string{
		"redis://127.0.0.1":                                  {"127.0.0.1:6379", "redis://127.0.0.1:9"},
		"redis://u:p%40w@localhost:7000/3":                   {"localhost:7000", "redis://u:p%40w@localhost:9/3"},
		"valkey://[::1]:7000":                                {"[::1]:7000", "valkey://127.0.0.1:9"},
		"postgres://u:p@127.0.0.1/d?sslmode=disable":         {"127.0.0.1:5432", "postgres://u:p@127.0.0.1:9/d?sslmode=disable"},
		"mysql://u:p@127.0.0.1:3307/d?tls=false":             {"127.0.0.1:3307", "mysql://u:p@127.0.0.1:9/d?tls=false"},
		"mariadb://u:p@127.0.0.1/d":                          {"127.0.0.1:3306", "mariadb://u:p@127.0.0.1:9/d"},
		"mongodb://127.0.0.1/d":                              {"127.0.0.1:27017", "mongodb://127.0.0.1:9/d?directConnection=true"},
		"mongodb://127.0.0.1/d?collection=c":                 {"127.0.0.1:27017", "mongodb://127.0.0.1:9/d?collection=c&directConnection=true"},
		"dynamodb://sessions?endpoint=http://127.0.0.1:8000": {"127.0.0.1:8000", "dynamodb://sessions?endpoint=http%3A%2F%2F127.0.0.1%3A9"},
		"sqlite:x.db":                                        {},
		"memory:":                                            {},
		"redis+cluster://127.0.0.1:7000,127.0.0.1:7001":      {},
		"redis+sentinel://127.0.0.1:7000/primary":            {},
		"rediss://cache.example":                             {},
		"postgres://u:p@127.0.0.1,127.0.0.2/d":               {},
		"mongodb://127.0.0.1/d?replicaSet=r":                 {},
		"dynamodb://sessions?region=eu-west-1":               {},
	} {
		u, err := Parse(raw)
		if err != nil {
			if want == ([2]string{}) {
				continue
			}
			t.Errorf("%s: %v", raw, err)
			continue
		}
		addr, err := u.Server()
		if (err != nil) != (want[0] == "") || addr != want[0] {
			t.Errorf("%s: the server is %q, %v; want %q", raw, addr, err, want[0])
		}
		if err != nil {
			continue
		}
		via := u.Via("9")
		if via.Raw() != want[1] {
			t.Errorf("%s becomes %s; want %s", raw, via.Raw(), want[1])
		}
		if again, err := Parse(via.Raw()); err != nil || again != via {
			t.Errorf("%s does not parse: %v", via.Raw(), err)
		}
	}
}
