//go:build unix

package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/chromedp/chromedp/remote"
	"github.com/coatcheck/coatcheck/internal/testserver"
)

// screenshots is the folder that TestDashboard writes pictures to; dashboard.png is
// docs/dashboard.png, the one in the README.
const screenshots = "COATCHECK_SCREENSHOTS"

// dashboardPatience bounds every wait for a real process, and is never measured.
const dashboardPatience = time.Minute

// coatcheckUp is a running `coatcheck up`.
type coatcheckUp struct {
	Admin string `json:"admin"`
	Token string `json:"admin_token"`

	cmd    *exec.Cmd
	stderr bytes.Buffer // to be read when the process has ended
	ended  func() error // waits for it
}

// startUp builds the command, and starts it on free ports over a SQLite file.
func startUp(t *testing.T) *coatcheckUp {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "coatcheck")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Dir = filepath.Join("..", "cmd", "coatcheck")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the command: %v\n%s", err, out)
	}
	u := &coatcheckUp{cmd: exec.Command(bin, "up", "--json", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--store", "sqlite:sessions.db")}
	u.cmd.Dir = dir
	u.cmd.Stderr = &u.stderr
	// A pipe of our own: Wait would close one that exec made under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	u.cmd.Stdout = w
	err = u.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	u.ended = sync.OnceValue(func() error {
		stuck := time.AfterFunc(dashboardPatience, func() { _ = u.cmd.Process.Kill() })
		defer stuck.Stop()
		return u.cmd.Wait()
	})
	t.Cleanup(func() {
		_ = u.cmd.Process.Signal(syscall.SIGCONT)
		_ = u.cmd.Process.Signal(os.Interrupt) // ended already, unless the test has failed
		_ = u.ended()
		if t.Failed() {
			t.Logf("coatcheck up said:\n%s", u.stderr.String())
		}
	})
	stuck := time.AfterFunc(dashboardPatience, func() { _ = u.cmd.Process.Kill() })
	defer stuck.Stop()
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, u)
	}
	if err != nil {
		t.Fatalf("coatcheck up did not become ready: %v; it printed %q", err, line)
	}
	return u
}

// takeStreams opens so many streams, and waits for each until there is room.
func (u *coatcheckUp) takeStreams(t *testing.T, n int) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	for end := time.Now().Add(dashboardPatience); n > 0; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.Admin+"/api/stream", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+u.Token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		switch {
		case resp.StatusCode == http.StatusOK:
			n--
		case time.Now().After(end):
			t.Fatalf("a stream is answered %s, though nobody looks on", resp.Status)
		default:
			time.Sleep(10 * time.Millisecond)
		}
	}
	return cancel
}

// tab is a page in the browser.
type tab struct {
	t       *testing.T
	ctx     context.Context
	console iter.Seq2[chromedp.ConsoleMessage, error]
}

func openTab(t *testing.T, browser *testserver.Server) *tab {
	t.Helper()
	ctx, cancel := remote.NewAllocator(context.Background(), browser.URL)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	p := &tab{t: t, ctx: ctx, console: chromedp.Console(ctx)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the page says:\n%s", p.text("body"))
		}
	})
	return p
}

func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	run(p, chromedp.Steps(actions...))
}

// run returns what came of the action.
func run[T any](p *tab, a chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, dashboardPatience)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

// tell is a command of the protocol that answers nothing.
func tell[P any](c cdp.Command[P, cdp.Empty], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// is evaluates a condition in the page.
func (p *tab) is(condition string) bool {
	p.t.Helper()
	return run(p, chromedp.Evaluate[bool]("!!("+condition+")"))
}

// await polls a condition in the page until it holds.
func (p *tab) await(what, condition string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, dashboardPatience)
	defer cancel()
	for {
		// An error is no answer: the page may be about to be another.
		yes, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+condition+")"))
		if yes {
			return
		}
		if ctx.Err() != nil {
			p.t.Fatalf("never happened: %s; the last answer was %v, %v", what, yes, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// text returns what is to be read there, or why it cannot be.
func (p *tab) text(selector string) string {
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](fmt.Sprintf("document.querySelector(%q).innerText", selector)))
	if err != nil {
		return err.Error()
	}
	return text
}

// mustBeContent fails the test if a script failed, or asked for what the page's policy
// forbids, until this call.
func (p *tab) mustBeContent() {
	p.t.Helper()
	const last = "that is all"
	run(p, chromedp.Evaluate[any](fmt.Sprintf("console.log(%q)", last)))
	for m, err := range p.console {
		switch {
		case err != nil:
			p.t.Fatal(err)
		case m.Text == last:
			return
		case m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleException:
			p.t.Errorf("the browser complains: %s", m.Text)
		}
	}
}

// awaitClick clicks the button, again if need be, for as long as from servers are kept,
// until to are: the page that reloads itself may go away under a click. Each says how many
// there would be, so two do what one does.
func (p *tab) awaitClick(what, button string, from, to int) {
	p.t.Helper()
	p.await(what, fmt.Sprintf(`((kept) => {
		if (kept.endsWith(" %d kept")) document.querySelector("button[aria-label='%s']").click();
		return kept.endsWith(" %d kept");
	})(document.querySelector("#kept").textContent)`, from, button, to))
}

// awaitSnapshots waits for the page to have shown n more, while shoppers shop.
func (p *tab) awaitSnapshots(n int) {
	p.t.Helper()
	for range n {
		p.await("the page shows what is new", fmt.Sprintf(`document.querySelector("#load_requests").textContent != %q`, p.text("#load_requests")))
	}
}

// mustHoldFocus fails the test if the focus is nowhere, or at a button.
func (p *tab) mustHoldFocus(after string) {
	p.t.Helper()
	if !p.is(`document.activeElement.matches("h2, h3")`) {
		p.t.Errorf("after %s the focus is at %s; want a heading: nowhere it is lost, and at a button Enter would do something",
			after, run(p, chromedp.Evaluate[string](`document.activeElement.outerHTML.slice(0, 200)`)))
	}
}

// tile is a selector.
func tile(worker, state string) string {
	return fmt.Sprintf(`document.querySelector(".tile[data-name=%s][data-state=%s]")`, worker, state)
}

// tiles is a condition: so many servers are ready, and no more are kept.
func tiles(n int) string {
	return fmt.Sprintf(`document.querySelectorAll(".tile[data-state=ready]").length == %d && document.querySelector("#kept").textContent == "%d ready, %d kept"`, n, n, n)
}

// TestDashboard: in a real browser a visitor of the dashboard starts a load, sees
// journeys, kills servers by mouse and by keyboard, sees them replaced and the journeys
// go on with nothing lost, scales, and is told when the connection is gone.
func TestDashboard(t *testing.T) {
	notShort(t)
	browser := testserver.Start(t, "chromium", nil)
	u := startUp(t)

	t.Run("without JavaScript", func(t *testing.T) {
		p := openTab(t, browser)
		p.do(tell(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}), chromedp.Navigate(u.Admin+"/?token="+u.Token))
		p.awaitClick("four servers, by the form alone", "One more", 3, 4)
		if !p.is(`document.querySelector("meta[http-equiv=refresh]")`) {
			t.Error("the page does not reload itself")
		}
		p.awaitClick("three servers, by the form alone", "One fewer", 4, 3)
	})

	p := openTab(t, browser)
	p.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(u.Admin+"/?token="+u.Token))
	p.await("a tile for each server", tiles(3))
	if p.is(`location.search`) {
		t.Error("the address still holds the token")
	}

	p.do(chromedp.Click(chromedp.CSS("#start button")))
	p.await("the shoppers' steps on every server", `document.querySelectorAll("#trail .dot").length == 3 && document.querySelector("#trail .way")`)
	p.await("requests are plotted", `document.querySelectorAll("#plot_requests .area").length >= 3 && document.querySelectorAll("#plot_latency .line").length == 2`)

	// By mouse.
	p.do(chromedp.Click(chromedp.CSS(`button[aria-label="Kill worker-1"]`)))
	p.await("the tile of worker-1 tells of its end", tile("worker-1", "killed"))
	p.await("another server takes its place", tile("worker-5", "ready"))

	// By keyboard.
	for tabs := 0; !p.is(`document.activeElement.ariaLabel == "Kill worker-2" && document.activeElement.matches(":focus-visible")`); tabs++ {
		if tabs == 100 {
			t.Fatal("the tab key does not lead to the button that kills worker-2")
		}
		p.do(chromedp.KeyEvent(kb.Tab))
	}
	p.do(chromedp.KeyEvent(kb.Enter))
	p.await("the tile of worker-2 tells of its end", tile("worker-2", "killed"))
	p.await("another server takes its place", tile("worker-6", "ready"))
	if p.is(`document.activeElement.tagName == "BUTTON"`) {
		t.Error("the next Enter would do something to another server")
	}
	if got := p.text("#events"); !strings.Contains(got, "worker-1 killed") || !strings.Contains(got, "worker-6 ready") {
		t.Errorf("the events are:\n%s", got)
	}

	// The journeys go on.
	p.await("the shoppers' steps on the new servers", `
		["worker-3", "worker-5", "worker-6"].every((s) => document.querySelector("#trail .dot[data-server=" + s + "]"))`)
	before := p.text("#journeys")
	p.await("more journeys", fmt.Sprintf(`Number(document.querySelector("#journeys").textContent) > Number(%q)`, before))

	// By form, with time between typing and sending.
	p.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#workers").select(); document.querySelector("#workers").focus()`), chromedp.KeyEvent("4"), chromedp.KeyEvent(kb.Tab))
	p.awaitSnapshots(2)
	p.do(chromedp.KeyEvent(kb.Enter))
	p.await("a tile more", tiles(4))

	// Two quick clicks are two more, and the drained servers' buttons lose no focus.
	p.do(chromedp.Evaluate[chromedp.Void](`for (let i = 0; i < 2; i++) document.querySelector("button[aria-label='One more']").click()`))
	p.await("two tiles more", tiles(6))
	if got := run(p, chromedp.Evaluate[string](`document.querySelector("#workers").value`)); got != "6" {
		t.Errorf("the field says %s; want the 6 servers that are kept", got)
	}
	p.do(chromedp.Evaluate[chromedp.Void](`for (let i = 0; i < 5; i++) { document.querySelector("button[aria-label='One fewer']").focus(); document.activeElement.click(); }`))
	p.await("one server is left, and may not go", `document.querySelector("#kept").textContent.endsWith(" 1 kept") && document.querySelector("button[aria-label='One fewer']").disabled`)
	p.mustHoldFocus("the last server but one was drained")
	p.do(chromedp.SetValue(chromedp.CSS("#workers"), "4"), chromedp.Click(chromedp.CSS("form:has(#workers) button")))
	p.await("the tiles of four servers", tiles(4))

	for _, width := range []int64{1280, 390} {
		p.do(chromedp.EmulateViewport(width, 844))
		p.await("the plots have the page's width", `document.querySelector("#trail").viewBox.baseVal.width == document.querySelector("#trail").clientWidth`)
		if p.is("document.documentElement.scrollWidth > innerWidth") {
			t.Errorf("at %d pixels the page is wider than the window", width)
		}
	}
	if dir := os.Getenv(screenshots); dir != "" {
		p.takePictures(dir)
	}

	p.mustBeFlawless()
	p.mustBeContent()

	// A process that hangs, and goes on.
	const lost = `document.querySelector("#lost").textContent && document.body.matches(".stale")`
	if p.is(lost) {
		t.Error("the page says that the connection is lost")
	}
	if err := u.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.await("the page says that coatcheck is silent", lost)
	if err := u.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.await("the page is alive again", "!("+lost+")")

	// A page that nobody sees leaves its stream to others, and tells why it gets none.
	look := func(hidden bool) {
		p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`
			Object.defineProperty(document, "hidden", { value: %v, configurable: true });
			document.dispatchEvent(new Event("visibilitychange"));`, hidden)))
	}
	look(true)
	leave := u.takeStreams(t, 16)
	look(false)
	p.await("the page says why it is not told anything", lost+` && document.querySelector("#lost").textContent.includes("close a page")`)
	leave()
	p.await("the page is alive again", "!("+lost+")")
	p.await("journeys go on", fmt.Sprintf(`Number(document.querySelector("#journeys").textContent) > Number(%q)`, p.text("#journeys")))
	p.mustBeFlawless()

	// Neither the shoppers nor the open stream keep it from ending.
	if err := u.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.await("the page says that the connection is lost", lost)
	if err := u.ended(); err != nil {
		t.Errorf("coatcheck up: %v", err)
	}
	p.await("the page was told how each server ended", `
		["worker-10", "worker-11", "worker-12"].every((s) => document.querySelector("#events").innerText.includes(s + " drained"))`)
}

func (p *tab) mustBeFlawless() {
	p.t.Helper()
	for _, id := range []string{"#sign_outs", "#lost_items", "#surplus_items", "#wrong_users", "#failed_requests"} {
		if got := p.text(id); got != "0" {
			p.t.Errorf("the shoppers noticed %s: %s", id, got)
		}
	}
}

// takePictures lets the plots fill, and takes pictures of the page.
func (p *tab) takePictures(dir string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS(`button[aria-label="One fewer"]`)))
	requests := func(n int) string {
		return fmt.Sprintf(`Number(document.querySelector("#load_requests").textContent.replace(",", "")) > %d`, n)
	}
	p.await("a minute's requests", requests(2200))
	p.do(chromedp.Evaluate[chromedp.Void](`document.querySelector(".tile [data-does=kill] button").click()`))
	p.await("the strips show it", requests(2450))
	for _, look := range []struct {
		name   string
		width  int64
		scheme string
	}{
		{"dashboard", 1280, "light"},
		{"dashboard-dark", 1280, "dark"},
		{"dashboard-phone", 390, "light"},
		{"dashboard-phone-dark", 390, "dark"},
	} {
		p.do(
			tell(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.scheme}}}),
			chromedp.EmulateViewport(look.width, 844),
		)
		p.await("the plots have the page's width", `["trail", "plot_requests", "plot_latency", "plot_store"].every((id) => {
			const svg = document.getElementById(id);
			return svg.viewBox.baseVal.width == svg.clientWidth;
		})`)
		p.do(chromedp.MouseClickXY(1, 1)) // away from what a pointer lights up
		png := run(p, chromedp.FullScreenshot(100))
		if err := os.WriteFile(filepath.Join(dir, look.name+".png"), png, 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
}
