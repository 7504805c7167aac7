package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alexedwards/scs/mongodbstore"
	mongov1 "go.mongodb.org/mongo-driver/mongo"
	optionsv1 "go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/mongostore"
)

// Names of peers on MongoDB.
const (
	scsMongo       = "scs, mongodbstore"
	scsMongoNoIdle = scsMongo + ", no idle timeout"
	bareFind       = "bare: the driver, find by _id"
	bareUpdateOne  = "bare: the driver, updateOne by _id"
)

var mongoFamily = family{
	kinds: []string{"mongo"},
	peers: append(opener(openMongo).peers(),
		peer{bareFind, openFind},
		peer{bareUpdateOne, openUpdateOne},
		peer{scsMongo, openMongoDBStore("scs", true)},
		peer{scsMongoNoIdle, openMongoDBStore("scs_no_idle", false)}),
	sections: documentSections(
		[]string{scsMongo, coatcheck, bareFind, near, touching, scsMongoNoIdle, noSession}, bareFind, bareUpdateOne),
	panels: documentPanels(scsMongo),
	modules: []string{
		"github.com/alexedwards/scs/v2",
		"github.com/alexedwards/scs/mongodbstore",
		"go.mongodb.org/mongo-driver",
		"go.mongodb.org/mongo-driver/v2",
	},
	notes: "mongo.md",
	judge: func(j *judge) {
		j.rate("read, to the driver's find of the same document", "read", coatcheck, bareFind, 0.8)
		j.rate("compare-and-swap in the store, to the driver's updateOne", "store", casStore, bareUpdateOne, 0.8)
	},
	cpu: processCPU,
}

// openMongo opens Coatcheck's store in a collection of its own.
func openMongo(ctx context.Context, url, collection string) (store.Store, func(), error) {
	return openMongoStore(ctx, url, collection)
}

func openMongoStore(ctx context.Context, url, collection string) (*mongostore.Store, func(), error) {
	st, err := mongostore.OpenURL(ctx, url, &mongostore.Options{Collection: collection})
	if err != nil {
		return nil, nil, err
	}
	closing := func() { _ = st.Close() }
	if err := st.Migrate(ctx); err != nil {
		closing()
		return nil, nil, err
	}
	return st, closing, nil
}

// openCollection opens the same with the driver, and what is in it with Coatcheck's
// store.
func openCollection(ctx context.Context, url, name string) (store.Store, *mongo.Collection, func(), error) {
	st, closing, err := openMongoStore(ctx, url, name)
	if err != nil {
		return nil, nil, nil, err
	}
	client, err := mongo.Connect(options.Client().ApplyURI(url).SetWriteConcern(writeconcern.Majority()))
	if err != nil {
		closing()
		return nil, nil, nil, err
	}
	return st, client.Database(st.Database()).Collection(name), func() { _ = client.Disconnect(context.Background()); closing() }, nil
}

func byID(k []byte) bson.D { return bson.D{{Key: "_id", Value: bson.Binary{Data: k}}} }

// openFind finds a document by the key that the cookie is, and looks at its data.
func openFind(ctx context.Context, url string) (*app, error) {
	st, c, closing, err := openCollection(ctx, url, "bare_find")
	if err != nil {
		return nil, err
	}
	return &app{
		signIn: createBare(st),
		read: bareRead(func(ctx context.Context, key []byte) ([]byte, error) {
			raw, err := c.FindOne(ctx, byID(key)).Raw()
			if err != nil {
				return nil, err
			}
			_, data, ok := raw.Lookup("data").BinaryOK()
			if !ok {
				return nil, errors.New("the document has no data")
			}
			return data, nil
		}),
		close: closing,
	}, nil
}

// openUpdateOne writes a document's data whatever its version is.
func openUpdateOne(ctx context.Context, url string) (*app, error) {
	st, c, closing, err := openCollection(ctx, url, "bare_update")
	if err != nil {
		return nil, err
	}
	return bareWrite(st, func(ctx context.Context, k store.Key) error {
		now := time.Now()
		res, err := c.UpdateOne(ctx, byID(k[:]), bson.D{{Key: "$set", Value: bson.D{
			{Key: "version", Value: now.UnixNano()},
			{Key: "expires", Value: bson.DateTime(now.Add(idle).UnixMilli())},
			{Key: "data", Value: bson.Binary{Data: data}},
		}}})
		if err == nil && res.MatchedCount != 1 {
			err = fmt.Errorf("an update by _id matched %d documents", res.MatchedCount)
		}
		return err
	}, closing), nil
}

// openMongoDBStore has the index without which scs would look through all sessions for
// one; its README does not mention it.
func openMongoDBStore(database string, withIdle bool) func(context.Context, string) (*app, error) {
	return func(ctx context.Context, url string) (*app, error) {
		client, err := mongov1.Connect(ctx, optionsv1.Client().ApplyURI(url))
		if err != nil {
			return nil, err
		}
		closing := func() { _ = client.Disconnect(context.Background()) }
		db := client.Database(database)
		if _, err := db.Collection("sessions").Indexes().CreateOne(ctx, mongov1.IndexModel{Keys: map[string]int{"token": 1}}); err != nil {
			closing()
			return nil, err
		}
		return scsPages(mongodbstore.NewWithCleanupInterval(db, 0), withIdle).app(closing), nil
	}
}
