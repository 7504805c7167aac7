module github.com/coatcheck/coatcheck/store/breaker

go 1.26.0

replace github.com/coatcheck/coatcheck => ../..

require (
	github.com/coatcheck/coatcheck v0.0.0-00010101000000-000000000000
	github.com/sony/gobreaker/v2 v2.4.0
)
