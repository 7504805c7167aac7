module github.com/coatcheck/coatcheck/cmd/coatcheck

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0
	github.com/coatcheck/coatcheck v0.0.0
	github.com/coatcheck/coatcheck/store/breaker v0.0.0
	github.com/coatcheck/coatcheck/store/nearcache v0.0.0
	github.com/coatcheck/coatcheck/store/redisstore v0.0.0
	github.com/ncruces/go-sqlite3 v0.37.0
	github.com/redis/rueidis v1.0.79
	github.com/rogpeppe/go-internal v1.16.0
	golang.org/x/term v0.47.0
)

require (
	github.com/maypok86/otter/v2 v2.4.0 // indirect
	github.com/ncruces/go-sqlite3-wasm/v6 v6.5.35401 // indirect
	github.com/ncruces/julianday v1.0.0 // indirect
	github.com/sony/gobreaker/v2 v2.4.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/tools v0.52.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace (
	github.com/coatcheck/coatcheck => ../..
	github.com/coatcheck/coatcheck/store/breaker => ../../store/breaker
	github.com/coatcheck/coatcheck/store/nearcache => ../../store/nearcache
	github.com/coatcheck/coatcheck/store/redisstore => ../../store/redisstore
)
