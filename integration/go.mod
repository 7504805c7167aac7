module github.com/coatcheck/coatcheck/integration

go 1.26

require github.com/coatcheck/coatcheck v0.0.0

replace github.com/coatcheck/coatcheck => ..
