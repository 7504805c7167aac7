// Package dynamostore keeps sessions in a table of Amazon DynamoDB.
//
//	s, err := dynamostore.OpenURL(ctx, "dynamodb://coatcheck?region=eu-central-1", nil)
//	…
//	sessions, err := session.New(s, nil)
//
// The table is made once, by [Store.Migrate]; [Store.Verify] looks at it. Its
// partition key is k and its sort key s, both binary; time to live is on for t.
//
// # Lost answers
//
// A write whose answer is lost may have been done. AWS's SDK would send it again,
// and its condition would fail because of itself: an update that is stored would be
// taken for a conflict, and made twice. So the store has the SDK repeat reads only.
// Such a write is a [store.ErrAmbiguous], and package session finds out by reading.
// What DynamoDB says that it has not done is sent again, until the context ends:
// requests over a limit, and those that met a transaction on the same item. When
// that lasts, the error says that it is throttled.
//
// # What is stored
//
// A session is one item under the hash of its ID. One with an owner has another
// beside it, an entry, under the hash of the owner: both are created in one
// transaction, so no revocation misses a session. Reads are consistent. The clock of
// the caller decides what has expired; DynamoDB collects it some minutes to days
// later. Data may have 384 KiB: an item of DynamoDB has at most 400 KB.
//
// Use the table of one region. A global table lets the last writer win, so that a
// session that was signed out in one region can come back from another; and a
// strongly consistent one refuses the transactions. There is no [store.Watcher]: the
// copies of package nearcache are as old as their bound.
//
// # What it costs
//
// In units of DynamoDB for a session of up to 1 KB; one that is larger costs its
// writes by the kilobyte and its reads by four:
//
//	Get                     1 read
//	GetMany                 1 read for each key
//	Create, Replace, Touch  1 write; Create with an owner 4
//	Delete                  1 write; with an owner 2
//	ListOwner               1 read for each session, and 1 for about 30 entries
//	DeleteOwner             2 writes for each session, and 1 read for about 30 entries
//	List                    the whole table
//
// A write whose condition fails costs the same. A Replace or Touch past the stored
// deadline takes a second attempt.
//
// # Rights
//
// An IAM policy for a web server, on the table's ARN alone:
//
//	dynamodb:GetItem, dynamodb:BatchGetItem, dynamodb:Query,
//	dynamodb:PutItem, dynamodb:UpdateItem, dynamodb:DeleteItem
//
// List also wants dynamodb:Scan; Verify dynamodb:DescribeTable and
// dynamodb:DescribeTimeToLive, as does Inspect, with
// dynamodb:DescribeContinuousBackups; Migrate besides dynamodb:CreateTable and
// dynamodb:UpdateTimeToLive.
package dynamostore
