package dynamostore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
)

// OpenURL returns a store with a client of its own; Close it when done. It asks the
// server for nothing that the store needs: see [Store.Verify] and [Store.Migrate].
// ctx bounds the look for credentials. opts, which may be nil, are what the URL does
// not say:
//
//	dynamodb://[TABLE]
//
// Behind a question mark may follow, with & in between:
//
//	region=REGION           as eu-central-1
//	profile=NAME            of the SDK's shared configuration
//	endpoint=URL            instead of AWS's own for the region, as
//	                        https://vpce-1-2.dynamodb.eu-central-1.vpce.amazonaws.com
//	insecure-plaintext=true without TLS to an endpoint that is not on this machine
//
// Credentials, and the region if the URL has none, are found as every program finds
// them that uses AWS's SDK: environment, shared configuration, the role of a
// container or machine. None can be in the URL, which ends in logs and lists of
// processes, where keys of AWS have leaked too often.
//
// An endpoint of http on loopback is a server for tests. It gets credentials that
// are made up, because such servers verify none, and because yours have no business
// there; and if no region is named, us-east-1. Without TLS, an endpoint that is not
// loopback is refused: session records are sealed, but who can read what is on the
// wire sees owners, and who can change it can bring back signed-out sessions.
func OpenURL(ctx context.Context, rawURL string, opts *Options) (*Store, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	u, err := parseURL(rawURL, &o)
	if err != nil {
		return nil, fmt.Errorf("dynamostore: %w", err)
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	transport := httpClient()
	load := []func(*config.LoadOptions) error{config.WithHTTPClient(transport)}
	if u.region != "" {
		load = append(load, config.WithRegion(u.region))
	}
	if u.profile != "" {
		load = append(load, config.WithSharedConfigProfile(u.profile))
	}
	if u.local {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("coatcheck", "coatcheck", "")))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("dynamostore: configuration of the AWS SDK: %w", err)
	}
	client := dynamodb.NewFromConfig(cfg, func(c *dynamodb.Options) {
		if u.endpoint != "" {
			c.BaseEndpoint = aws.String(u.endpoint)
		}
	})
	set := client.Options()
	if set.Region == "" {
		return nil, errors.New("dynamostore: no region: name it in the URL, as in dynamodb://coatcheck?region=eu-central-1, or in the SDK's configuration")
	}
	// The SDK's own configuration can name an endpoint, too.
	if set.BaseEndpoint != nil && !u.plaintext {
		if err := checkEndpoint(*set.BaseEndpoint); err != nil {
			return nil, fmt.Errorf("dynamostore: %w", err)
		}
	}
	s, err := New(client, &o)
	if err != nil {
		return nil, err
	}
	s.close = func() { transport.GetTransport().CloseIdleConnections() }
	return s, nil
}

// CheckURL returns what is wrong with rawURL and opts, which may be nil, as far as
// the URL tells. [OpenURL] returns the same.
func CheckURL(rawURL string, opts *Options) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	if _, err := parseURL(rawURL, &o); err != nil {
		return fmt.Errorf("dynamostore: %w", err)
	}
	return o.complete()
}

// Settings of a client for sessions. Requests wait for them, so a server that does
// not answer must be given up in seconds.
const (
	dialTimeout = time.Second
	answerLimit = 2 * time.Second
	idleConns   = 256 // kept, which the SDK does for 10: 64 requests at once would dial for most
)

func httpClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout, d.KeepAlive = dialTimeout, time.Second }).
		WithTransportOptions(func(t *http.Transport) {
			t.TLSHandshakeTimeout = 2 * dialTimeout
			t.ResponseHeaderTimeout = answerLimit
			t.MaxIdleConns, t.MaxIdleConnsPerHost = idleConns, idleConns
		})
}

// parsedURL is what a URL says of the client.
type parsedURL struct {
	region, profile, endpoint string
	local                     bool // the endpoint is a server for tests
	plaintext                 bool
}

var errURL = errors.New("the URL is not of the form dynamodb://TABLE?region=REGION")

const wordBytes = tableBytes + "+:/@ "

// parseURL returns what the client is to be, and completes o. No error quotes more
// of the URL than the host of an endpoint: somebody may have put a secret into it.
func parseURL(raw string, o *Options) (p parsedURL, err error) {
	rest, ok := strings.CutPrefix(raw, "dynamodb://")
	if !ok {
		return p, errors.New("the URL does not begin with dynamodb://")
	}
	table, params, _ := strings.Cut(rest, "?")
	switch {
	case strings.Contains(table, "@"):
		return p, errors.New("the URL has credentials in it, which belong where the AWS SDK looks for them: environment, profile or role")
	case strings.Trim(table, tableBytes) != "", strings.Contains(params, "#"):
		return p, errURL
	}
	if table != "" {
		o.Table = table
	}
	values, err := url.ParseQuery(params)
	if err != nil {
		return p, errURL
	}
	for name, v := range values {
		switch name {
		case "region", "profile", "endpoint", "insecure-plaintext":
		default: // it is not named: it may be a part of a secret
			return p, errors.New("the URL has a parameter that is not known; known are region, profile, endpoint and insecure-plaintext")
		}
		if len(v) > 1 {
			return p, fmt.Errorf("the URL has %s twice", name)
		}
		if v[0] == "" {
			return p, fmt.Errorf("the URL has %s without a value", name)
		}
	}
	p.region, p.profile, p.endpoint = values.Get("region"), values.Get("profile"), values.Get("endpoint")
	if strings.Trim(p.region, tableBytes) != "" {
		return p, errors.New("region in the URL is not the name of one, as eu-central-1")
	}
	if strings.Trim(p.profile, wordBytes) != "" {
		return p, errors.New("profile in the URL is not the name of one")
	}
	if v := values.Get("insecure-plaintext"); v != "" && v != "true" {
		return p, errors.New("insecure-plaintext in the URL can only be true")
	}
	p.plaintext = values.Has("insecure-plaintext")
	if p.endpoint == "" {
		return p, nil
	}
	e, err := url.Parse(p.endpoint)
	if err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Hostname() == "" || e.User != nil || e.RawQuery != "" || e.Fragment != "" {
		return p, errors.New("endpoint in the URL is not of the form https://host or https://host:port")
	}
	p.local = e.Scheme == "http" && loopback(e.Hostname())
	if p.local && p.region == "" {
		p.region = "us-east-1"
	}
	if !p.plaintext {
		return p, checkEndpoint(p.endpoint)
	}
	return p, nil
}

// checkEndpoint returns an error if what is sent there can be read on the way.
func checkEndpoint(endpoint string) error {
	e, err := url.Parse(endpoint)
	if err != nil {
		return errors.New("the endpoint is not a URL")
	}
	if e.Scheme == "https" || loopback(e.Hostname()) {
		return nil
	}
	return fmt.Errorf("not encrypted: the endpoint %s is not on this machine, and the connection would be readable on the way; begin the endpoint with https, or, where the network itself is encrypted, add insecure-plaintext=true", e.Host)
}

// loopback reports whether what is sent to host cannot leave this machine.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
