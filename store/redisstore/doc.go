// Package redisstore keeps sessions in Redis or Valkey.
package redisstore
