// Package factory of ExternalDNS with the providers that tests use, in place of its own with every cloud's: those take
// half an hour to compile. Nothing else of ExternalDNS is changed.
package factory

import (
	"context"
	"fmt"

	"sigs.k8s.io/external-dns/endpoint"
	"sigs.k8s.io/external-dns/pkg/apis/externaldns"
	"sigs.k8s.io/external-dns/provider"
	"sigs.k8s.io/external-dns/provider/aws"
	"sigs.k8s.io/external-dns/provider/inmemory"
	"sigs.k8s.io/external-dns/provider/rfc2136"
	"sigs.k8s.io/external-dns/provider/webhook"
)

// ProviderConstructor is a function that creates a provider from configuration.
type ProviderConstructor func(
	ctx context.Context,
	cfg *externaldns.Config,
	domainFilter *endpoint.DomainFilter,
) (provider.Provider, error)

// Select creates a provider based on the given configuration.
func Select(
	ctx context.Context,
	cfg *externaldns.Config,
	domainFilter *endpoint.DomainFilter) (provider.Provider, error) {
	constructors := map[string]ProviderConstructor{
		externaldns.ProviderAWS:      aws.New,
		externaldns.ProviderInMemory: inmemory.New,
		externaldns.ProviderRFC2136:  rfc2136.New,
		externaldns.ProviderWebhook:  webhook.New,
	}
	constructor, ok := constructors[cfg.Provider]
	if !ok {
		return nil, fmt.Errorf("unknown dns provider: %s", cfg.Provider)
	}
	made, err := constructor(ctx, cfg, domainFilter)
	if err != nil {
		return nil, err
	}
	if made != nil && cfg.ProviderCacheTime > 0 {
		return provider.NewCachedProvider(made, cfg.ProviderCacheTime), nil
	}
	return made, nil
}
