module github.com/coatcheck/coatcheck/store/nearcache

go 1.26.0

require (
	github.com/coatcheck/coatcheck v0.0.0
	github.com/maypok86/otter/v2 v2.4.0
)

replace github.com/coatcheck/coatcheck => ../..
