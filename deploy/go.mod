module github.com/coatcheck/coatcheck/deploy

go 1.26

require github.com/coatcheck/coatcheck v0.0.0

replace github.com/coatcheck/coatcheck => ..
