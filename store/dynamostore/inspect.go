package dynamostore

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/coatcheck/coatcheck/store"
)

// Inspect implements [store.Inspector]. It looks at encryption on the way, the
// table and its keys, the time to live, capacity, replicas in other regions,
// encryption at rest, deletion protection and backups.
func (s *Store) Inspect(ctx context.Context) ([]store.Finding, error) {
	if err := ctx.Err(); err != nil {
		return nil, readError(ctx, "inspect", err)
	}
	desc, err := s.describe(ctx)
	found := []store.Finding{s.inspectTLS()}
	switch code(err) {
	case "":
		if err != nil {
			return nil, readError(ctx, "inspect", err)
		}
	case "ResourceNotFoundException":
		return append(found, store.Finding{
			Check: "table", Severity: store.SeverityCritical,
			Evidence: "there is no table " + s.table + " in this region and account",
			Fix:      "let Migrate create it, or name the right table and region",
		}), nil
	case "AccessDeniedException":
		for _, check := range []string{"table", "ttl", "capacity", "regions", "encryption", "protection", "backups"} {
			found = append(found, unknown(check, "dynamodb:DescribeTable"))
		}
		return found, nil
	default:
		return nil, readError(ctx, "inspect", err)
	}
	return append(found, inspectTable(desc), s.inspectTTL(ctx), inspectCapacity(desc), inspectRegions(desc),
		inspectEncryption(desc), inspectProtection(desc), s.inspectBackups(ctx)), nil
}

func unknown(check, right string) store.Finding {
	return store.Finding{Check: check, Severity: store.SeverityUnknown, Evidence: "the server does not tell these credentials (" + right + ")"}
}

func (s *Store) inspectTLS() store.Finding {
	f := store.Finding{Check: "tls", Severity: store.SeverityOK, Evidence: "connections are encrypted, and the server's certificate is verified"}
	u := s.endpoint()
	const fix = "begin the endpoint with https, or leave it out: AWS's own are"
	switch o := s.client.Options(); {
	case u == nil && !o.EndpointOptions.DisableHTTPS, u != nil && u.Scheme == "https":
	case u != nil && loopback(u.Hostname()):
		f.Severity, f.Evidence, f.Fix = store.SeverityWarning, "connections are not encrypted; they stay on this machine", fix
	default:
		f.Severity, f.Evidence, f.Fix = store.SeverityCritical, "connections are not encrypted and leave this machine", fix
	}
	return f
}

func inspectTable(d *types.TableDescription) store.Finding {
	f := store.Finding{Check: "table", Severity: store.SeverityOK, Evidence: "the table is " + string(d.TableStatus)}
	if err := checkSchema(d); err != nil {
		f.Severity, f.Evidence, f.Fix = store.SeverityCritical, err.Error(), "name another table, or let Migrate create one"
		return f
	}
	switch d.TableStatus {
	case types.TableStatusActive, types.TableStatusUpdating:
	case types.TableStatusInaccessibleEncryptionCredentials:
		f.Severity, f.Fix = store.SeverityCritical, "give the table the use of its key back, in AWS KMS"
	default:
		f.Severity, f.Fix = store.SeverityCritical, "wait until it is ACTIVE; one that is deleted or archived must be made again"
	}
	return f
}

func (s *Store) inspectTTL(ctx context.Context) store.Finding {
	const fix = "let Migrate turn it on: aws dynamodb update-time-to-live, attribute t"
	on, err := s.ttl(ctx)
	switch {
	case code(err) != "":
		return unknown("ttl", "dynamodb:DescribeTimeToLive")
	case err != nil:
		return store.Finding{Check: "ttl", Severity: store.SeverityWarning, Evidence: readError(ctx, "inspect", err).Error(), Fix: fix}
	case !on:
		return store.Finding{Check: "ttl", Severity: store.SeverityWarning, Evidence: "sessions that have expired stay for ever, and are paid for", Fix: fix}
	}
	return store.Finding{Check: "ttl", Severity: store.SeverityOK, Evidence: "DynamoDB collects what has expired"}
}

func inspectCapacity(d *types.TableDescription) store.Finding {
	if b := d.BillingModeSummary; b != nil && b.BillingMode == types.BillingModePayPerRequest {
		return store.Finding{Check: "capacity", Severity: store.SeverityOK, Evidence: "on demand"}
	}
	evidence := "provisioned"
	if p := d.ProvisionedThroughput; p != nil {
		evidence = fmt.Sprintf("provisioned: %d reads and %d writes per second", aws.ToInt64(p.ReadCapacityUnits), aws.ToInt64(p.WriteCapacityUnits))
	}
	return store.Finding{
		Check: "capacity", Severity: store.SeverityWarning,
		Evidence: evidence + "; what is more is throttled, and users wait, or see errors",
		Fix:      "let the table scale by itself, or switch it to on demand (PAY_PER_REQUEST)",
	}
}

func inspectRegions(d *types.TableDescription) store.Finding {
	switch {
	case len(d.Replicas) == 0:
		return store.Finding{Check: "regions", Severity: store.SeverityOK, Evidence: "the table is in one region"}
	case d.MultiRegionConsistency == types.MultiRegionConsistencyStrong:
		return store.Finding{
			Check: "regions", Severity: store.SeverityCritical,
			Evidence: "the table is replicated with strong consistency, and such tables refuse the transactions by which sessions of an owner are created",
			Fix:      "keep sessions in a table of one region",
		}
	}
	return store.Finding{
		Check: "regions", Severity: store.SeverityCritical,
		Evidence: "the table is replicated to other regions, where the last writer wins: a session that was signed out in one can come back from another",
		Fix:      "let web servers use the table of one region alone, or keep a table per region",
	}
}

func inspectEncryption(d *types.TableDescription) store.Finding {
	evidence := "at rest with a key that AWS owns"
	if e := d.SSEDescription; e != nil && e.SSEType == types.SSETypeKms {
		evidence = "at rest with a key of AWS KMS, " + string(e.Status)
	}
	return store.Finding{Check: "encryption", Severity: store.SeverityOK, Evidence: evidence}
}

func inspectProtection(d *types.TableDescription) store.Finding {
	if aws.ToBool(d.DeletionProtectionEnabled) {
		return store.Finding{Check: "protection", Severity: store.SeverityOK, Evidence: "the table cannot be deleted by accident"}
	}
	return store.Finding{
		Check: "protection", Severity: store.SeverityWarning,
		Evidence: "one call deletes the table, and signs everybody out",
		Fix:      "turn deletion protection on: aws dynamodb update-table --deletion-protection-enabled",
	}
}

// inspectBackups says what is; neither is wrong.
func (s *Store) inspectBackups(ctx context.Context) store.Finding {
	out, err := s.client.DescribeContinuousBackups(ctx, &dynamodb.DescribeContinuousBackupsInput{TableName: &s.table})
	if err != nil || out.ContinuousBackupsDescription == nil {
		return unknown("backups", "dynamodb:DescribeContinuousBackups")
	}
	f := store.Finding{Check: "backups", Severity: store.SeverityOK, Evidence: "no point-in-time recovery, which sessions can do without"}
	if p := out.ContinuousBackupsDescription.PointInTimeRecoveryDescription; p != nil && p.PointInTimeRecoveryStatus == types.PointInTimeRecoveryStatusEnabled {
		f.Evidence = "point-in-time recovery is on; a table that is restored brings back sessions that were signed out since"
	}
	return f
}
