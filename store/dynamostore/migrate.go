package dynamostore

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
)

// Migrate creates the table if there is none, on demand and with deletion
// protection, waits until it can be used, and has DynamoDB collect what has expired.
// It leaves alone what is there already, and any number of servers may call it at
// once. Creating a table takes DynamoDB some seconds; ctx bounds that.
func (s *Store) Migrate(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return readError(ctx, "migrate", err)
	}
	desc, err := s.describe(ctx)
	if code(err) == "ResourceNotFoundException" {
		if err = s.createTable(ctx); err == nil {
			desc, err = s.await(ctx)
		}
	} else if err == nil && desc.TableStatus == types.TableStatusCreating {
		desc, err = s.await(ctx)
	}
	if err != nil {
		return readError(ctx, "migrate", err)
	}
	if err := checkSchema(desc); err != nil {
		return fmt.Errorf("dynamostore: migrate: %w", err)
	}
	return readError(ctx, "migrate", s.enableTTL(ctx))
}

func (s *Store) createTable(ctx context.Context) error {
	_, err := s.client.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName: &s.table,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String(attrKey), AttributeType: types.ScalarAttributeTypeB},
			{AttributeName: aws.String(attrSort), AttributeType: types.ScalarAttributeTypeB},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String(attrKey), KeyType: types.KeyTypeHash},
			{AttributeName: aws.String(attrSort), KeyType: types.KeyTypeRange},
		},
		BillingMode:               types.BillingModePayPerRequest,
		DeletionProtectionEnabled: aws.Bool(true),
	})
	if code(err) == "ResourceInUseException" {
		return nil // another server was faster
	}
	return err
}

// await waits until the table can be used.
func (s *Store) await(ctx context.Context) (*types.TableDescription, error) {
	for attempt := 0; ; attempt++ {
		desc, err := s.describe(ctx)
		// Who asks right after the creation may be told that there is none.
		if err != nil && code(err) != "ResourceNotFoundException" || err == nil && desc.TableStatus != types.TableStatusCreating {
			return desc, err
		}
		if pause(ctx, attempt) != nil {
			return nil, ctx.Err()
		}
	}
}

// enableTTL has DynamoDB collect items after the time in their attribute. It is told
// only if need be, because it refuses changes soon after each other.
func (s *Store) enableTTL(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		on, err := s.ttl(ctx)
		if on || err != nil {
			return err
		}
		_, err = s.client.UpdateTimeToLive(ctx, &dynamodb.UpdateTimeToLiveInput{
			TableName:               &s.table,
			TimeToLiveSpecification: &types.TimeToLiveSpecification{AttributeName: aws.String(attrTTL), Enabled: aws.Bool(true)},
		})
		if err == nil {
			return nil
		}
		// Another server may have been faster, and is at it.
		if c := code(err); c != "ValidationException" && c != "ResourceInUseException" || attempt == 5 {
			return err
		}
		if pause(ctx, attempt+4) != nil {
			return ctx.Err()
		}
	}
}

// Verify returns what is wrong with the table: that there is none, that its keys are
// others, or that nothing collects what has expired. It changes nothing.
func (s *Store) Verify(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return readError(ctx, "verify", err)
	}
	desc, err := s.describe(ctx)
	if err != nil {
		return readError(ctx, "verify", err)
	}
	if err := checkSchema(desc); err != nil {
		return fmt.Errorf("dynamostore: verify: %w", err)
	}
	on, err := s.ttl(ctx)
	if err == nil && !on {
		err = errNoTTL
	}
	if errors.Is(err, errNoTTL) {
		return fmt.Errorf("dynamostore: verify: %w", err)
	}
	return readError(ctx, "verify", err)
}

var errNoTTL = errors.New("the table's time to live is not on for the attribute t, so sessions that have expired stay for ever: Migrate turns it on")

func (s *Store) describe(ctx context.Context) (*types.TableDescription, error) {
	out, err := s.client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &s.table})
	if err != nil {
		return nil, err
	}
	if out.Table == nil {
		return nil, errAnswer
	}
	return out.Table, nil
}

// ttl reports whether the table's time to live is on, or soon will be, for the
// store's attribute.
func (s *Store) ttl(ctx context.Context) (bool, error) {
	out, err := s.client.DescribeTimeToLive(ctx, &dynamodb.DescribeTimeToLiveInput{TableName: &s.table})
	if err != nil {
		return false, err
	}
	d := out.TimeToLiveDescription
	if d == nil {
		return false, nil
	}
	switch d.TimeToLiveStatus {
	case types.TimeToLiveStatusEnabled, types.TimeToLiveStatusEnabling:
		if aws.ToString(d.AttributeName) != attrTTL {
			return false, fmt.Errorf("%w; it is on for another attribute: turn that off first", errNoTTL)
		}
		return true, nil
	}
	return false, nil
}

// checkSchema returns why the table is not one that sessions can be in.
func checkSchema(d *types.TableDescription) error {
	kinds := map[string]types.ScalarAttributeType{}
	for _, a := range d.AttributeDefinitions {
		kinds[aws.ToString(a.AttributeName)] = a.AttributeType
	}
	keys := map[types.KeyType]string{}
	for _, e := range d.KeySchema {
		keys[e.KeyType] = aws.ToString(e.AttributeName)
	}
	if len(keys) != 2 || keys[types.KeyTypeHash] != attrKey || keys[types.KeyTypeRange] != attrSort ||
		kinds[attrKey] != types.ScalarAttributeTypeB || kinds[attrSort] != types.ScalarAttributeTypeB {
		return errors.New("the table is somebody else's: its partition key is not k and its sort key not s, both binary; name another table, or let Migrate create one")
	}
	return nil
}

// code returns the server's word for an error.
func code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}
