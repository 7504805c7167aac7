// Package deploy has files to run servers with: configurations of balancers, and
// manifests of Kubernetes, Compose, systemd and Docker. README.md says which is for
// what. There is no code in it but the tests that hold the files to what they promise.
package deploy
