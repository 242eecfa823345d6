package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/generated/predpb"
)

// describes returns the description of a model of two columns.
func describes(name, version string, classes ...string) *predpb.DescribeResponse {
	return &predpb.DescribeResponse{
		Name: name, Version: version, Engine: "sklearn", Scores: map[string]string{"mae": "12.5"}, Classes: classes,
		Columns: []*predpb.ColumnDescription{{Name: "x", Dtype: "float64", Nullable: true}, {Name: "who", Dtype: "str"}},
		Target:  &predpb.ColumnDescription{Name: "p", Dtype: "float64", Unit: "minutes"},
	}
}

// field is one field of a form. One of a file has a name for that.
type field struct{ name, value, file string }

// submit posts a form as a browser does that shows the gateway's page.
func submit(t *testing.T, g *testkit.Gateway, path string, fields []field, headers ...string) testkit.Response {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for _, f := range fields {
		var part io.Writer
		var err error
		if f.name == "file" {
			part, err = form.CreateFormFile(f.name, f.file)
		} else {
			part, err = form.CreateFormField(f.name)
		}
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(part, f.value)
	}
	form.Close()
	browser := []string{
		"Content-Type: " + form.FormDataContentType(), "Accept: text/html,application/xhtml+xml,*/*;q=0.8",
		"Origin: " + g.URL, "Sec-Fetch-Site: same-origin",
	}
	return g.Do(t, "POST", path, &body, append(browser, headers...)...)
}

// wantPage checks that a reply is the page, with what belongs to it, and that all of these texts are on it.
func wantPage(t *testing.T, r testkit.Response, status int, texts ...string) {
	t.Helper()
	if r.Status != status || r.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("got %d %s, want %d and a page: %.300s", r.Status, r.Header.Get("Content-Type"), status, r.Body)
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'sha256-", "X-Content-Type-Options": "nosniff",
		"Referrer-Policy": "same-origin", "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin", "Vary": "Accept",
	} {
		if got := r.Header.Get(name); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, text := range texts {
		if !strings.Contains(r.Body, text) {
			t.Errorf("%q is not on the page:\n%s", text, r.Body[strings.Index(r.Body, "<body>"):])
		}
	}
}

func TestPageSaysWhatIsServed(t *testing.T) {
	address, _ := testkit.StartModels(t, testkit.Echo, describes("flights", "1"), describes("other", "1"), describes("other", "2", "yes", "no"))
	g := startGateway(t, address)
	r := g.Do(t, "GET", "/", nil)
	wantPage(t, r, 200, "<h1>flights ", "<strong>p</strong>, in minutes,", `<th scope="row">who</th><td><code>str</code></td>`, "12.5", "sklearn",
		`<a href="/" aria-current="page">flights</a>`, `<a href="/?model=other&amp;version=2">other v2</a>`, "5c4e3a",
		html.EscapeString("curl -sS "+g.URL+"/predict -H 'Content-Type: text/csv' \\\n  --data-raw 'x,who\n0.5,a\n'"), "0.5,a\n</textarea>")
	if strings.Contains(r.Body, "probabilities") {
		t.Error("a model without classes is asked for probabilities")
	}
	r = g.Do(t, "GET", "/?model=other&version=2", nil, "Host: localhost:1234")
	wantPage(t, r, 200, "<h1>other ", `action="/?model=other&amp;version=2#answer"`, "curl -sS http://localhost:1234/predict ",
		"Model-Version: 2", `id="probabilities"`)
	wantPage(t, g.Do(t, "GET", "/?model=nothing", nil), 404, "no model &#34;nothing&#34; here", "Status 404")
	wantPage(t, g.Do(t, "GET", "/?model=%00", nil), 400, "must be printable ASCII")
	for _, query := range []string{"model=%zz", "model=other;version=2", "model=other&x=%"} {
		wantPage(t, g.Do(t, "GET", "/?"+query, nil), 400, html.EscapeString(query), "cannot be read; write ?model=NAME")
		wantPage(t, submit(t, g, "/?"+query, []field{{"table", "x\n1\n", ""}}), 400, "cannot be read; write ?model=NAME", "x\n1\n</textarea>")
		testkit.WantError(t, g.Do(t, "GET", "/openapi.json?"+query, nil), 400, "INVALID_ARGUMENT", "cannot be read; write ?model=NAME")
	}
	if head := g.Do(t, "HEAD", "/", nil); head.Status != 200 || head.Body != "" || head.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("HEAD: %d %q", head.Status, head.Body)
	}
}

func TestWhoGetsThePageAndWhoJSON(t *testing.T) {
	address, _ := testkit.StartModels(t, testkit.Echo, describes("m", "1"))
	g := startGateway(t, address)
	for accept, page := range map[string]bool{
		"": true, "*/*": true, "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": true, "text/*": true, "image/png": true,
		"application/json": false, "application/*": false, "application/json, text/html;q=0.5": false, "application/json;q=0.5, text/html": true,
		"text/html;q=0, */*": false,
	} {
		r := g.Do(t, "GET", "/", nil, "Accept: "+accept)
		if got := strings.HasPrefix(r.Body, "<!DOCTYPE html>"); got != page || r.Status != 200 || r.Header.Get("Vary") != "Accept" {
			t.Errorf("%q: page %v, status %d", accept, got, r.Status)
		}
		if !page && r.Body != g.Do(t, "GET", "/models", nil).Body {
			t.Errorf("%q: got %s", accept, r.Body)
		}
	}
	testkit.WantError(t, g.Do(t, "POST", "/", strings.NewReader("x"), "Accept: application/json"), 415, "INVALID_ARGUMENT", "/predict")
}

func TestModelsAsJSON(t *testing.T) {
	address, kill := testkit.StartModels(t, testkit.Echo, describes("a", "1"), describes("a", "2"), describes("b", "1", "yes", "no"))
	g := startGateway(t, address)
	var all struct{ Models []map[string]any }
	r := g.Do(t, "GET", "/models", nil)
	if err := json.Unmarshal([]byte(r.Body), &all); err != nil || r.Status != 200 || r.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%v: %d %s", err, r.Status, r.Body)
	}
	var names []string
	for _, m := range all.Models {
		names = append(names, fmt.Sprint(m["name"], "/", m["version"]))
	}
	if got := strings.Join(names, " "); got != "a/1 a/2 b/1" || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %s", got)
	}
	for path, want := range map[string]string{"/models/a": "a/1", "/models/a/2": "a/2", "/models/b": "b/1"} {
		var m map[string]any
		r := g.Do(t, "GET", path, nil)
		if err := json.Unmarshal([]byte(r.Body), &m); err != nil || fmt.Sprint(m["name"], "/", m["version"]) != want {
			t.Errorf("%s: %v %s", path, err, r.Body)
		}
		if m["schema_hash"] != "5c4e3a" || m["content_digest"] != "d16e57" || m["example"] != "x,who\n0.5,a\n" {
			t.Errorf("%s: %v", path, m)
		}
	}
	testkit.WantError(t, g.Do(t, "GET", "/models/c", nil), 404, "NOT_FOUND", `no model "c" here`)
	testkit.WantError(t, g.Do(t, "GET", "/models/a%00", nil), 400, "INVALID_ARGUMENT", "printable")
	kill()
	testkit.WantError(t, g.Do(t, "GET", "/models", nil), 503, "UNAVAILABLE", "cannot be reached")
	testkit.WantError(t, g.Do(t, "GET", "/openapi.json", nil), 503, "UNAVAILABLE", "cannot be reached")
}

// Nothing is remembered of a server that is gone, and what the page asked binds no call of others.
func TestWhatThePageAskedOutlivesNoServer(t *testing.T) {
	old, kill := testkit.StartModels(t, testkit.Echo, describes("old", "1"))
	g := startGateway(t, old)
	wantPage(t, g.Do(t, "GET", "/", nil), 200, "<h1>old ")
	kill()
	wantPage(t, g.Do(t, "GET", "/", nil), 503, "No answer at present", "cannot be reached; try again", "Status 503")

	testkit.StartModelsAt(t, old, testkit.Echo, describes("new", "1"))
	testkit.Eventually(t, "the server that is there now", func() bool {
		return strings.Contains(g.Do(t, "GET", "/", nil).Body, "<h1>new ")
	})

	expected := make(chan string, 1)
	address, _ := testkit.StartModels(t, func(ctx context.Context, table string) (string, error) {
		expected <- testkit.Incoming(ctx, "expect-schema")
		return table, nil
	}, describes("m", "1"))
	g = startGateway(t, address)
	g.Do(t, "GET", "/", nil)
	g.Do(t, "GET", "/models", nil)
	g.Post(t, "x\n1\n")
	if got := testkit.Receive(t, "the call", expected); got != "" {
		t.Errorf("a call of another expects %q", got)
	}
}

// silent takes calls and answers none.
type silent struct {
	predpb.UnimplementedPredictionServer
}

func (silent) Describe(ctx context.Context, _ *predpb.DescribeRequest) (*predpb.DescribeResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestServersThatDoNotDescribe(t *testing.T) {
	server := grpc.NewServer()
	predpb.RegisterPredictionServer(server, silent{})
	g := startGateway(t, testkit.Serve(t, server), "-ready-timeout=50ms")
	wantPage(t, g.Do(t, "GET", "/", nil), 503, "did not say in time what it serves")

	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g = startGateway(t, address)
	wantPage(t, g.Do(t, "GET", "/", nil), 200, "does not describe its models", `id="table"`, "--data-binary @table.csv")
	wantPage(t, submit(t, g, "/", []field{{"table", "x\r\n1\r\n", ""}}), 200, "1 prediction in ")
	testkit.WantError(t, g.Do(t, "GET", "/models", nil), 502, "UNIMPLEMENTED", "does not describe its models")
	if r := g.Do(t, "GET", "/openapi.json", nil); r.Status != 200 || !strings.Contains(r.Body, `"/predict"`) {
		t.Errorf("got %d %s", r.Status, r.Body)
	}
}

// answering is a model whose predictions are the first column's, and that says what was asked of it.
func answering(ctx context.Context, table string) (string, error) {
	grpc.SetTrailer(ctx, metadata.Pairs("server-timing", `decode;dur=1, predict;dur=2, batch;desc="2 rows"`,
		"model-identity", "m/1/5c4e3a/d16e57", "ignored-columns", "a%2Cb"))
	rows := strings.Split(strings.TrimSpace(strings.ReplaceAll(table, "\r\n", "\n")), "\n")[1:]
	for i := range rows {
		rows[i], _, _ = strings.Cut(rows[i], ",")
	}
	head := strings.Trim(testkit.Incoming(ctx, "model-name")+" "+testkit.Incoming(ctx, "output")+" "+testkit.Incoming(ctx, "expect-schema"), " ")
	return "p " + head + "\n" + strings.Join(rows, "\n") + "\n", nil
}

func TestFormIsAnsweredOnThePage(t *testing.T) {
	address, _ := testkit.StartModels(t, answering, describes("m", "1"), describes("n", "1", "yes", "no"))
	g := startGateway(t, address)
	pasted := field{"table", "x,who\r\n41,<script>alert(1)</script>\r\n42,b\r\n", ""}
	none := field{"file", "", ""}
	r := submit(t, g, "/", []field{{"schema", "5c4e3a", ""}, pasted, none})
	wantPage(t, r, 200, "2 predictions in ", `<td class="predicted">41</td><td>41</td><td>&lt;script&gt;alert(1)&lt;/script&gt;</td>`,
		"m/1/5c4e3a/d16e57", "<code>a,b</code>", `<th scope="row">predict<`, `<td class="number">2.00</td>`, `<rect class="model"`, "2 rows at once",
		"42,b\n</textarea>", html.EscapeString("--data-raw 'x,who\n41,<script>alert(1)</script>\n42,b\n'"), "p 5c4e3a<")
	if strings.Contains(r.Body, "<script") {
		t.Error("a cell became markup")
	}
	if timing := r.Header.Get("Server-Timing"); !strings.HasPrefix(timing, "decode;dur=1, predict;dur=2, ") || !strings.Contains(timing, "gateway;dur=") {
		t.Errorf("Server-Timing %q", timing)
	}

	file := field{"file", "x,who\n7,c\n", "table.csv"}
	r = submit(t, g, "/?model=n", []field{pasted, file, {"output", "probabilities", ""}})
	wantPage(t, r, 200, "<h1>n ", "1 prediction in ", ">p n probabilities<", `<td class="predicted">7</td>`, "42,b\n</textarea>",
		"--data-raw &#39;x,who\n7,c\n&#39;", " checked>", `action="/?model=n#answer"`)

	r = submit(t, g, "/", []field{pasted, {"download", "csv", ""}})
	if r.Status != 200 || r.Body != "p\n41\n42\n" && r.Body != "p \n41\n42\n" || r.Header.Get("Content-Type") != "text/csv; charset=utf-8" ||
		r.Header.Get("Content-Disposition") != `attachment; filename="predictions.csv"` {
		t.Errorf("download: %d %q %v", r.Status, r.Body, r.Header)
	}
}

// A browser sends CRLF for each line end of a text, and a file as it is.
func TestLineEndsOfATextAreThoseThatWereTyped(t *testing.T) {
	address, _ := testkit.StartModels(t, testkit.Echo, describes("m", "1"))
	g := startGateway(t, address)
	const typed = "\"price\n(EUR)\",who\n1,\"a\nb\"\n"
	sent, download := strings.ReplaceAll(typed, "\n", "\r\n"), field{"download", "csv", ""}
	if r := submit(t, g, "/", []field{{"table", sent, ""}, download}); r.Status != 200 || r.Body != typed {
		t.Errorf("a text: %d %q", r.Status, r.Body)
	}
	if r := submit(t, g, "/", []field{{"table", "", ""}, {"file", sent, "t.csv"}, download}); r.Status != 200 || r.Body != sent {
		t.Errorf("a file: %d %q", r.Status, r.Body)
	}
}

// What the API refuses the page refuses, with the same status and the same sentence.
func TestFormIsRefusedAsATableIs(t *testing.T) {
	st, err := status.New(codes.InvalidArgument, "who: line 2: '<script>' is bad").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "who", Description: "line 2: '<script>' is bad"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	address, _ := testkit.StartModels(t, func(_ context.Context, table string) (string, error) {
		switch {
		case strings.Contains(table, "bad"):
			return "", st.Err()
		case strings.Contains(table, "secret"):
			return "", status.Error(codes.Internal, "a secret")
		}
		return table, nil
	}, describes("m", "1"))
	g := startGateway(t, address, "-max-body-bytes=2000")
	for _, table := range []string{"x,who\n1,bad <script>\n", "", "x,who", "\xff\n1\n", "x\n" + strings.Repeat("1\n", 2000), "x\nsecret\n", "\x1f\x8b\n"} {
		api := g.Do(t, "POST", "/predict", strings.NewReader(table), "Content-Type: text/csv")
		if len(table) > 2000 {
			// A longer table the API takes as a stream; the page does not, and says what the API says of one that it holds whole.
			api = g.Do(t, "POST", "/predict", strings.NewReader("["+table), "Content-Type: application/json")
		}
		var e testkit.ErrorBody
		if err := json.Unmarshal([]byte(api.Body), &e); err != nil || api.Status < 400 {
			t.Fatalf("%.20q: %d %s", table, api.Status, api.Body)
		}
		for _, f := range []field{{"table", table, ""}, {"file", table, "t.csv"}} {
			r := submit(t, g, "/", []field{f})
			wantPage(t, r, api.Status, `<p id="problem-message">`+html.EscapeString(e.Error.Message)+"</p>", `role="alert"`, "<title>Error: ", "<h1>m ", `id="predict"`)
			if strings.Contains(r.Body, "<script") || strings.Contains(r.Body, "a secret") {
				t.Errorf("%.20q: the page has it", table)
			}
			testkit.WantError(t, submit(t, g, "/", []field{f}, "Accept: application/json"), api.Status, e.Error.Code, e.Error.Message)
		}
	}
	wantPage(t, submit(t, g, "/", []field{{"table", "x,who\n1,bad <script>\n", ""}}), 400,
		`<th scope="row">who</th><td>2</td><td>&#39;&lt;script&gt;&#39; is bad<br><code>1,bad &lt;script&gt;</code></td>`)
}

func TestFormsThatAreNotThePages(t *testing.T) {
	address, _ := testkit.StartModels(t, testkit.Echo, describes("m", "1"))
	g := startGateway(t, address)
	table := []field{{"table", "x\n1\n", ""}}
	for _, test := range []struct {
		headers []string
		status  int
		text    string
	}{
		{[]string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"}, 403, "A page of another site may not post"},
		{[]string{"Sec-Fetch-Site: same-site"}, 403, "A page of another site"},
		{[]string{"Sec-Fetch-Site: ", "Origin: https://evil.example"}, 403, "A page of another site"},
		{[]string{"Sec-Fetch-Site: ", "Origin: null"}, 403, "A page of another site"},
		{[]string{"Host: evil.example", "Origin: http://evil.example"}, 421, "does not answer to the host"},
		{[]string{"Content-Type: application/x-www-form-urlencoded"}, 415, "multipart/form-data"},
		{[]string{"Content-Type: multipart/form-data"}, 415, "multipart/form-data"},
		{[]string{"Content-Type: multipart/form-data; boundary=other"}, 400, "The form cannot be read"},
		{[]string{"Content-Encoding: br"}, 415, "gzip"},
	} {
		wantPage(t, submit(t, g, "/", table, test.headers...), test.status, test.text)
	}
	wantPage(t, g.Do(t, "GET", "/", nil, "Host: evil.example"), 421, "does not answer to the host")
	for _, path := range []string{"/models", "/models/m", "/openapi.json"} {
		testkit.WantError(t, g.Do(t, "GET", path, nil, "Host: evil.example"), 421, "PERMISSION_DENIED", "does not answer to the host")
	}
	if r := submit(t, g, "/", table, "Sec-Fetch-Site: "); r.Status != 200 {
		t.Errorf("an older browser: %d %s", r.Status, r.Body)
	}
	var many []field
	for range mostFields + 1 {
		many = append(many, field{"other", "x", ""})
	}
	wantPage(t, submit(t, g, "/", many), 400, "The form cannot be read")
	wantPage(t, submit(t, g, "/", []field{{"table", "x\n1\n", ""}, {"output", "\x00", ""}}), 400, "Model-Output must be printable ASCII")
}

// What a form takes counts with what all requests hold, and is given back.
func TestFormsAreUnderTheGatewaysLimits(t *testing.T) {
	begun, release := make(chan struct{}, 1), make(chan struct{})
	address, _ := testkit.StartModels(t, func(_ context.Context, table string) (string, error) {
		begun <- struct{}{}
		<-release
		return table, nil
	}, describes("m", "1"))
	h, log := newHandler(t, address, "-max-requests-in-flight=1")
	g := serveHandler(t, h, log)
	table := "x\n" + strings.Repeat("1\n", 100_000)
	replies := make(chan testkit.Response, 1)
	go func() { replies <- submit(t, g, "/", []field{{"table", table, ""}}) }()
	testkit.Receive(t, "the call", begun)
	if held := h.held.Held(); held < 3*int64(len(table)) {
		t.Errorf("%d bytes are held of a table of %d", held, len(table))
	}
	r := submit(t, g, "/", []field{{"table", "x,who\n1,a\n", ""}})
	wantPage(t, r, 429, "As many requests are at work as may be", "try again in 1 s", "1,a\n</textarea>")
	if r.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", r.Header.Get("Retry-After"))
	}
	wantPage(t, g.Do(t, "GET", "/", nil), 429, "As many requests")
	close(release)
	if r := testkit.Receive(t, "the reply", replies); r.Status != 200 || !strings.Contains(r.Body, "The first 100 of 100,000 rows") || len(r.Body) > mostEchoed+50_000 {
		t.Errorf("got %d, %d bytes", r.Status, len(r.Body))
	}
	testkit.Eventually(t, "nothing is held", func() bool { return h.held.Held() == 0 })

	g = startGateway(t, address, "-max-body-bytes=400000", "-chunk-bytes=1000", "-max-bytes-held=1200000")
	wantPage(t, submit(t, g, "/", []field{{"table", "x\n" + strings.Repeat("1\n", 190_000), ""}}), 413, "-max-bytes-held")
}

func TestNamesThatLookLikeMarkup(t *testing.T) {
	const script = "<script>alert(1)</script>"
	model := describes(script, "1\"><script>", script)
	model.Engine, model.Parity, model.Scores = script, script, map[string]string{script: script}
	model.Columns = append(model.Columns, &predpb.ColumnDescription{Name: script, Dtype: script, Unit: script})
	model.Target = &predpb.ColumnDescription{Name: script, Dtype: script, Unit: script}
	address, _ := testkit.StartModels(t, testkit.Failing(status.Error(codes.InvalidArgument, script)), model, describes("m\" onclick=\"", "1"))
	g := startGateway(t, address)
	shown := []testkit.Response{g.Do(t, "GET", "/", nil), submit(t, g, "/", []field{{"table", script + "\n" + script + "\n", ""}, {"schema", script, ""}})}
	shown = append(shown, g.Do(t, "GET", "/?model=<script>&version=<script>", nil), g.Do(t, "GET", "/", nil, "X-Request-Id: "+script))
	for i, r := range shown {
		if !strings.Contains(r.Body, "&lt;script&gt;") || strings.Contains(r.Body, "<script") || strings.Contains(r.Body, `" onclick="`) {
			t.Errorf("page %d:\n%s", i, r.Body)
		}
	}
	for _, path := range []string{"/models", "/openapi.json"} {
		if r := g.Do(t, "GET", path, nil); r.Status != 200 || strings.Contains(r.Body, "<script") || r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %s", path, r.Status, r.Body)
		}
	}
}

func TestWithoutThePage(t *testing.T) {
	address, _ := testkit.StartModels(t, testkit.Echo, describes("m", "1"))
	g := startGateway(t, address, "-page=false")
	for _, path := range []string{"/", "/models", "/models/m", "/openapi.json"} {
		testkit.WantError(t, g.Do(t, "GET", path, nil), http.StatusNotFound, "NOT_FOUND", "/predict")
	}
	if r := g.Post(t, "x\n1\n"); r.Status != 200 {
		t.Errorf("got %d", r.Status)
	}
}
