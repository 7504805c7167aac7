module github.com/coatcheck/coatcheck/store/breaker

go 1.26.0

replace github.com/coatcheck/coatcheck => ../..
