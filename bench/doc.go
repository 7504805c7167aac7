// Package bench compares Coatcheck with its peers, side by side in one run.
package bench
