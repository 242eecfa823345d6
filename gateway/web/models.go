package web

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"

	"google.golang.org/grpc/codes"

	"example.com/predserver/gateway/internal/catalog"
	"example.com/predserver/gateway/internal/openapi"
	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// Nothing of what follows is kept: each request asks the prediction server anew, so that no answer outlives it.

// models answers GET /models.
func (h *Handler) models(r *http.Request, _ *http.ResponseController) (answer, error) {
	if err := h.guard.check(r); err != nil {
		return answer{}, err
	}
	models, err := h.catalog(r.Context())
	if err != nil {
		return answer{}, err
	}
	return asJSON(catalog.Catalog{Models: models})
}

// model answers GET /models/NAME and GET /models/NAME/VERSION.
func (h *Handler) model(r *http.Request, _ *http.ResponseController) (answer, error) {
	if err := h.guard.check(r); err != nil {
		return answer{}, err
	}
	_, model, err := h.describe(r.Context(), catalog.Choice{Name: r.PathValue("name"), Version: r.PathValue("version")})
	if err != nil {
		return answer{}, err
	}
	return asJSON(model)
}

// openAPI answers GET /openapi.json: with all models, or with the one that the query names.
func (h *Handler) openAPI(r *http.Request, _ *http.ResponseController) (answer, error) {
	if err := h.guard.check(r); err != nil {
		return answer{}, err
	}
	choice, err := choiceOf(r)
	if err != nil {
		return answer{}, err
	}
	var models []catalog.Model
	if choice == (catalog.Choice{}) {
		models, err = h.catalog(r.Context())
	} else {
		var model catalog.Model
		_, model, err = h.describe(r.Context(), choice)
		models = append(models, model)
	}
	if errors.Is(err, errNotDescribed) {
		models, err = nil, nil // what holds for all models can be said
	}
	if err != nil {
		return answer{}, err
	}
	a := whole(mediaJSON, string(openapi.Document(openapi.Gateway{
		URL: baseOf(r), Named: choice != (catalog.Choice{}), Token: h.options.Authorize != nil, HealthToken: h.options.HealthToken,
	}, models)))
	a.header.Set("Cache-Control", "no-store")
	return a, nil
}

// catalog returns all models, in the prediction server's order. One that goes away meanwhile is left out.
func (h *Handler) catalog(ctx context.Context) ([]catalog.Model, error) {
	ctx, cancel := context.WithTimeout(ctx, h.options.ReadyTimeout) // for all of them together
	defer cancel()
	description, first, err := h.describe(ctx, catalog.Choice{})
	if err != nil {
		return nil, err
	}
	models := []catalog.Model{first}
	for _, choice := range catalog.Choices(description)[1:] {
		_, model, err := h.describe(ctx, choice)
		if e, ok := errors.AsType[*pred.Error](err); ok && (e.Code == codes.NotFound || e.Code == codes.InvalidArgument) {
			continue // InvalidArgument is of a name that no call can hold
		}
		if err != nil {
			return nil, err
		}
		models = append(models, model)
	}
	return models, nil
}

// errNotDescribed is of a prediction server that has no Describe, such as the article's.
var errNotDescribed = &problem.Error{
	Status: http.StatusBadGateway, Code: codes.Unimplemented,
	Message: "The prediction server does not describe its models; it takes tables all the same.",
}

// describe asks the prediction server for one of its models.
func (h *Handler) describe(ctx context.Context, choice catalog.Choice) (*predpb.DescribeResponse, catalog.Model, error) {
	release, err := h.slots.Take()
	if err != nil {
		return nil, catalog.Model{}, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, h.options.ReadyTimeout)
	defer cancel()
	var opts []pred.CallOption
	if choice.Name != "" {
		opts = append(opts, pred.Model(choice.Name))
	}
	if choice.Version != "" {
		opts = append(opts, pred.Version(choice.Version))
	}
	description, identity, err := h.client.Inspect(ctx, opts...)
	if err == nil {
		return description, catalog.Of(description, identity), nil
	}
	switch e, _ := errors.AsType[*pred.Error](err); {
	case e == nil:
	case e.Code == codes.Unimplemented:
		err = errNotDescribed
	case e.Code == codes.DeadlineExceeded:
		refusal := problem.Refusal(http.StatusServiceUnavailable, codes.Unavailable,
			"The prediction server did not say in time what it serves; try again in a few seconds.")
		refusal.Reason = e.Message
		err = refusal
	}
	return nil, catalog.Model{}, err
}

// asJSON returns an answer that nobody keeps.
func asJSON(value any) (answer, error) {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return answer{}, err
	}
	a := whole(mediaJSON, string(text)+"\n")
	a.header.Set("Cache-Control", "no-store")
	return a, nil
}

// choiceOf returns the model that a query names. One that cannot be read names none, and must not get the first model.
func choiceOf(r *http.Request) (catalog.Choice, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		e := problem.BadRequest("The query %s of the address cannot be read; write ?model=NAME&version=VERSION, "+
			"with each special character percent-encoded.", problem.Clip(r.URL.RawQuery))
		e.Reason = err.Error()
		return catalog.Choice{}, e
	}
	return catalog.Choice{Name: query.Get("model"), Version: query.Get("version")}, nil
}

// baseOf returns the gateway's address as the client knows it, such as http://127.0.0.1:8080.
func baseOf(r *http.Request) string {
	host := r.Host
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); host == "" && ok {
		host = local.String() // a client of HTTP/1.0 need not name one
	}
	if r.TLS != nil {
		return "https://" + host
	}
	return "http://" + host
}
