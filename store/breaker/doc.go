// Package breaker keeps a slow or broken session store from holding up its users.
package breaker
