package dynamostore_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/coatcheck/coatcheck/store/dynamostore"
)

// At the start of a program.
func ExampleOpenURL() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	sessions, err := dynamostore.OpenURL(ctx, "dynamodb://shop-sessions?region=eu-central-1", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer sessions.Close()
	if err := sessions.Migrate(ctx); err != nil { // or Verify, where the table is made elsewhere
		log.Fatal(err)
	}
	// sessions goes to session.New.
}

// A program can look at its configuration before it begins.
func ExampleCheckURL() {
	fmt.Println(dynamostore.CheckURL("dynamodb://sessions?region=eu-central-1", nil))
	fmt.Println(dynamostore.CheckURL("dynamodb://sessions?endpoint=http://dynamo.example.com:8000", nil))
	// Output:
	// <nil>
	// dynamostore: not encrypted: the endpoint dynamo.example.com:8000 is not on this machine, and the connection would be readable on the way; begin the endpoint with https, or, where the network itself is encrypted, add insecure-plaintext=true
}
