package redisstore_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/coatcheck/coatcheck/store/redisstore"
)

// At the start of a program.
func ExampleOpenURL() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	sessions, err := redisstore.OpenURL(ctx, "rediss+sentinel://app:secret@s1.example.com,s2.example.com,s3.example.com/main", &redisstore.Options{
		Prefix:      "shop:",
		MinReplicas: 1, // an acknowledged write survives the loss of its server
	})
	if err != nil {
		log.Fatal(err)
	}
	defer sessions.Close()
	// sessions goes to session.New.
}

// A program can look at its configuration before it begins.
func ExampleCheckURL() {
	fmt.Println(redisstore.CheckURL("rediss://app:secret@redis.example.com/0", nil))
	fmt.Println(redisstore.CheckURL("redis://app:secret@redis.example.com/0", nil))
	// Output:
	// <nil>
	// redisstore: not encrypted: redis.example.com:6379 is not on this machine, and the connection would be readable on the way; begin the URL with rediss, or, where the network itself is encrypted, add insecure-plaintext=true
}
