module github.com/coatcheck/coatcheck/store/redisstore

go 1.26.0

replace github.com/coatcheck/coatcheck => ../..
