module github.com/coatcheck/coatcheck/bench

go 1.26.0

replace github.com/coatcheck/coatcheck => ..
