module github.com/coatcheck/coatcheck/store/nearcache

go 1.26.0

replace github.com/coatcheck/coatcheck => ../..
