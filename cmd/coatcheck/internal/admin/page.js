"use strict";
(() => {
	const MINUTE = 60_000, HALF = 30_000;
	const GONE_SHOWN = 8_000; // how long the tile of a server that is gone stays, in ms
	const SILENCE = 4_000; // without a word for so long, the connection counts as lost, in ms
	const PATIENCE = 5_000; // how long an answer may take, in ms
	const SAID = 15_000; // how long the header tells what was just done, in ms
	const EVENTS = 40; // are shown
	const FOLLOWED = "shopper-1";
	const $ = (id) => document.getElementById(id);

	// What the plots show. Times are the server's, in milliseconds.
	let points = [], steps = [], now = 0;
	const ends = new Map(); // server → the event that ended it

	// Text and shapes. Nothing from the server ever becomes markup.

	const put = (node, text) => { text = String(text); if (node && node.textContent !== text) node.textContent = text; };
	const number = (n, digits = 0) => n.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
	const amount = (n) => number(n, n < 9.95 ? 1 : 0);
	const shape = (name, attributes, text) => {
		const e = document.createElementNS("http://www.w3.org/2000/svg", name);
		for (const a in attributes) e.setAttribute(a, attributes[a]);
		if (text !== undefined) e.textContent = text;
		return e;
	};
	const clock = (time) => new Date(time).toLocaleTimeString("en-GB");
	const byNumber = (a, b) => a.localeCompare(b, "en", { numeric: true });

	// Each server has a colour for as long as the page is open.
	const colours = new Map();
	const colour = (server) => {
		if (!colours.has(server)) colours.set(server, "s" + colours.size % 8);
		return colours.get(server);
	};

	// Plots.

	// canvas empties an SVG and gives it a unit per pixel, so that text keeps its size.
	function canvas(svg, height) {
		const width = Math.max(200, svg.clientWidth);
		if (height) svg.style.height = height + "px";
		svg.setAttribute("viewBox", `0 0 ${width} ${height || svg.clientHeight}`);
		svg.replaceChildren();
		return [width, height || svg.clientHeight];
	}

	// ceiling is a round number that is not below v.
	function ceiling(v) {
		const power = 10 ** Math.floor(Math.log10(v));
		return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((m) => m * power >= v) * power;
	}

	// plot draws axes from zero to the greatest value; draw gets the scales.
	function plot(svg, values, draw) {
		const [width, height] = canvas(svg);
		const left = 44, right = 8, top = 8, bottom = 20;
		const most = ceiling(Math.max(1e-3, ...values));
		const x = (t) => left + (1 - (now - t) / MINUTE) * (width - left - right);
		const y = (v) => top + (1 - v / most) * (height - top - bottom);
		for (const v of [0, most / 2, most]) {
			svg.append(shape("path", { class: "grid", d: `M${left} ${y(v).toFixed(1)}H${width - right}` }));
			svg.append(shape("text", { x: left - 6, y: y(v) + (v === most ? 9 : 4), "text-anchor": "end" }, v === 0 ? "0" : amount(v).replace(/\.0$/, "")));
		}
		for (const [ago, text, anchor] of [[MINUTE, "60 s ago", "start"], [HALF, "30 s", "middle"], [0, "now", "end"]]) {
			svg.append(shape("text", { x: x(now - ago), y: height - 4, "text-anchor": anchor }, text));
		}
		if (values.length) draw(x, y);
		else svg.append(shape("text", { x: (left + width) / 2, y: height / 2, "text-anchor": "middle" }, "nothing to show"));
		for (const e of ends.values()) {
			const t = Date.parse(e.time);
			if (e.kind !== "drained" && now - t < MINUTE) svg.append(shape("path", { class: "mark", d: `M${x(t).toFixed(1)} ${top}V${height - bottom}` }));
		}
	}

	// line draws a value of the points, with gaps where there is none.
	function line(svg, of, name, x, y) {
		let d = "", pen = "M";
		for (const p of points) {
			const v = of(p);
			if (v === undefined) { pen = "M"; continue; }
			d += `${pen}${x(p.t).toFixed(1)} ${y(v).toFixed(1)}${pen === "M" ? "h0" : ""}`;
			pen = "L";
		}
		svg.append(shape("path", { class: "line " + name, d }));
	}

	function drawPlots() {
		const servers = [...new Set(points.flatMap((p) => Object.keys(p.requests)))].sort(byNumber);
		let svg = $("plot_requests");
		plot(svg, points.length > 1 ? [...points.map((p) => p.rate), 1] : [], (x, y) => {
			// The servers share what came: those of one that went are not known, and repeated
			// requests were sent to two.
			const shares = points.map((p) => p.rate / (Object.values(p.requests).reduce((a, b) => a + b, 0) || 1));
			const base = points.map(() => 0);
			for (const s of servers) {
				const bottom = [...base];
				points.forEach((p, i) => { base[i] += (p.requests[s] || 0) * shares[i]; });
				const edge = (at) => points.map((p, i) => `${x(p.t).toFixed(1)} ${y(at[i]).toFixed(1)}`);
				const d = "M" + edge(base).concat(edge(bottom).reverse()).join("L") + "Z";
				svg.append(shape("path", { class: "area " + colour(s), d }));
			}
			line(svg, (p) => p.rate, "all", x, y); // without a server, too
		});
		const latencies = points.filter((p) => p.p99_ms !== undefined);
		svg = $("plot_latency");
		plot(svg, latencies.map((p) => p.p99_ms), (x, y) => {
			line(svg, (p) => p.p99_ms, "p99", x, y);
			line(svg, (p) => p.p50_ms, "", x, y);
		});
		svg = $("plot_store");
		plot(svg, points.filter((p) => p.ping_ms !== undefined).map((p) => p.ping_ms), (x, y) => line(svg, (p) => p.ping_ms, "", x, y));
	}

	// drawTrail draws a strip for each server, and in it a dot for each request that it
	// answered. A shopper's dots have the same height in every strip.
	function drawTrail(workers) {
		const svg = $("trail");
		const names = new Set(workers.map((w) => w.name));
		for (const s of steps) if (s.server) names.add(s.server);
		const rows = [...names].sort(byNumber);
		if (steps.some((s) => !s.server)) rows.push("");
		const each = Math.max(6, Math.min(30, 360 / rows.length)), foot = 22, left = 84, right = 10;
		const [width, height] = canvas(svg, Math.max(3, rows.length) * each + foot);
		const span = width < 480 ? HALF / 2 : HALF; // on a phone the dots would be one
		const x = (t) => left + (1 - (now - t) / span) * (width - left - right);
		const y = (s) => {
			const lane = parseInt(s.shopper.split("-")[1], 10) || 0;
			return (rows.indexOf(s.server) + .5) * each + (lane * 5 % 8 - 3.5) * each / 12;
		};
		const at = (s) => `${x(s.t).toFixed(1)} ${y(s).toFixed(1)}`;
		const recent = steps.filter((s) => now - s.t <= span);
		const named = Math.ceil(13 / each); // of so many rows one has room for its name
		rows.forEach((name, i) => {
			const over = ends.has(name) && !workers.some((w) => w.name === name);
			svg.append(shape("rect", { class: "strip", x: left, y: i * each + 1.5, width: width - left - right, height: each - 3, rx: 4 }));
			if (i % named === 0) svg.append(shape("text", { x: left - 8, y: i * each + each / 2 + 4, "text-anchor": "end", class: over ? "over" : "" }, name || "no server"));
		});
		for (const [ago, text, anchor] of [[span, `${span / 1000} s ago`, "start"], [0, "now", "end"]]) {
			svg.append(shape("text", { x: x(now - ago), y: height - 5, "text-anchor": anchor }, text));
		}
		if (!recent.length) {
			svg.append(shape("text", { x: (left + width) / 2, y: each * 1.5 + 4, "text-anchor": "middle" }, "Start some shoppers to see their journeys."));
		}
		const good = recent.filter((s) => !s.fault);
		const way = good.filter((s) => s.shopper === FOLLOWED);
		for (const name of rows) {
			const d = good.filter((s) => s.server === name && s.shopper !== FOLLOWED).map((s) => `M${at(s)}h0`).join("");
			if (d) svg.append(shape("path", { class: "dot " + colour(name), d, "data-server": name }));
		}
		if (way.length) {
			svg.append(shape("path", { class: "way", d: "M" + way.map(at).join("L") }));
			svg.append(shape("path", { class: "step", d: way.map((s) => `M${at(s)}h0`).join("") }));
		}
		for (const s of recent) {
			if (s.fault === "unrepeatable") svg.append(shape("path", { class: "open", d: `M${at(s)}m0-6l5 9h-10z` }));
			else if (s.fault) svg.append(shape("path", { class: "bad", d: `M${at(s)}m-4-4h8v8h-8z` }));
		}
		for (const [name, e] of ends) {
			const row = rows.indexOf(name), t = Date.parse(e.time);
			if (row >= 0 && now - t < span && e.kind !== "drained") {
				svg.append(shape("path", { class: "end", d: `M${x(t).toFixed(1)} ${(row + .5) * each}m-5-5l10 10m0-10l-10 10` }));
			}
		}
	}

	// retire disables or hides what holds a button. The focus, which would be lost, goes to
	// the heading above: at the next button Enter would do something else.
	function retire(node, off, how = "disabled") {
		if (off && node.contains(document.activeElement)) node.closest(".tile, section").querySelector("h2, h3").focus();
		node[how] = off;
	}

	// Tiles.

	const part = (tile, name) => tile.querySelector(`[data-is=${name}]`);

	function newTile(w) {
		const tile = $("tile").content.firstElementChild.cloneNode(true);
		tile.dataset.name = w.name;
		put(part(tile, "name"), w.name);
		for (const form of tile.querySelectorAll("form")) {
			const does = form.dataset.does;
			form.action = `/workers/${encodeURIComponent(w.name)}/${does}`;
			form.querySelector("button").setAttribute("aria-label", `${does === "kill" ? "Kill" : "Drain"} ${w.name}`);
		}
		return tile;
	}

	function showTiles(workers, rates) {
		const tiles = new Map([...$("tiles").children].map((t) => [t.dataset.name, t]));
		for (const w of workers) {
			let tile = tiles.get(w.name);
			if (!tile) $("tiles").append(tile = newTile(w));
			tiles.delete(w.name);
			tile.classList.add(colour(w.name));
			tile.dataset.state = w.state;
			put(part(tile, "state"), w.state);
			put(part(tile, "pid"), w.pid);
			put(part(tile, "requests"), number(w.requests));
			put(part(tile, "in_flight"), w.in_flight);
			put(part(tile, "rate"), amount(rates[w.name] || 0));
			retire(tile.querySelector("[data-does=drain] button"), w.state === "draining");
		}
		for (const tile of tiles.values()) endTile(tile);
	}

	// endTile shows for a while how a server has ended, which may be known only later.
	function endTile(tile) {
		const end = ends.get(tile.dataset.name);
		tile.dataset.state = end ? end.kind : "gone";
		put(part(tile, "state"), tile.dataset.state);
		if (tile.classList.contains("over")) return;
		tile.classList.add("over");
		put(part(tile, "in_flight"), 0);
		put(part(tile, "rate"), "–");
		for (const b of tile.querySelectorAll("button")) retire(b, true);
		setTimeout(() => {
			if (tile.contains(document.activeElement)) $("servers").focus();
			tile.remove();
		}, GONE_SHOWN);
	}

	// The rest of the page.

	function row(e) {
		const li = document.createElement("li"), time = document.createElement("time"), text = document.createElement("span"), kind = document.createElement("b");
		time.dateTime = e.time;
		put(time, clock(e.time));
		put(kind, e.kind);
		kind.dataset.kind = e.kind;
		text.append(e.worker ? e.worker + " " : "", kind);
		if (e.detail) {
			const more = document.createElement("span");
			more.className = "soft";
			put(more, " " + e.detail);
			text.append(more);
		}
		li.append(time, " ", text);
		return li;
	}

	// say tells what was just done, aloud, and again if it was the same.
	let unsay = 0;
	function say(text) {
		$("status").textContent = text;
		clearTimeout(unsay);
		unsay = setTimeout(() => put($("status"), ""), SAID);
	}

	// note takes an event into account; those that matter are said aloud.
	function note(e) {
		if (["killed", "died", "drained", "failed"].includes(e.kind)) ends.set(e.worker, e);
		if (ends.size > 200) ends.delete(ends.keys().next().value);
	}

	function showFigures(s) {
		const p = s.point, b = s.balancer;
		put($("rate"), amount(p.rate));
		put($("p50"), p.p50_ms === undefined ? "–" : amount(p.p50_ms));
		put($("p99"), p.p99_ms === undefined ? "–" : amount(p.p99_ms));
		put($("in_flight"), b.in_flight);
		put($("retries"), number(b.retries));
		put($("no_upstream"), number(b.no_upstream));
		const st = s.store;
		if (st.url) {
			put($("store_url"), st.name);
			$("store_url").title = st.url;
			put($("store"), st.state === "ok" && st.ping_ms ? `ok in ${number(st.ping_ms, 1)} ms` : st.state);
			$("store").classList.toggle("down", st.state === "unavailable");
			put($("store_more"), st.topology + (st.breaker ? ", circuit " + st.breaker : "") + (st.error ? ` (${st.error})` : ""));
		}
		put($("kept"), `${s.workers.filter((w) => w.state === "ready").length} ready, ${s.target} kept`);
		showTarget(s.target);
		const a = s.autoscaling;
		if (a && $("autoscaling")) {
			put($("autoscaling"), a.pinned ? `The number was set by hand; for the load it would be ${a.workers}.`
				: `The number follows the load, from ${a.min} to ${a.max}${a.reason ? ": " + a.reason : ""}.${a.panic ? " A burst is on or just over, so none goes." : ""}`);
			retire($("unpin"), !a.pinned, "hidden");
		}
	}

	// showTarget shows how many servers are kept, but not over a number that somebody typed.
	function showTarget(n) {
		const field = $("workers");
		if (field.value === field.defaultValue) field.value = n;
		field.defaultValue = n;
		for (const [id, to] of [["fewer", n - 1], ["more", n + 1]]) {
			$(id).value = to;
			retire($(id).form.querySelector("button"), to < field.min || to > field.max);
		}
	}

	function showLoad(l) {
		put($("load"), { stopped: "Nobody shops.", running: `${l.shoppers} shoppers shop.`, stopping: "The shoppers leave." }[l.state]);
		for (const name of ["journeys", "sign_outs", "lost_items", "surplus_items", "wrong_users", "failed_requests", "unrepeatable_lost"]) put($(name), number(l[name]));
		put($("load_requests"), number(l.requests));
		for (const e of document.querySelectorAll(".fault")) e.classList.toggle("some", e.textContent !== "0");
		retire($("start").querySelector("button"), l.state !== "stopped");
		retire($("stop").querySelector("button"), l.state !== "running");
		const first = Object.entries(l.first || {}).map(([kind, what]) => `${kind.replaceAll("_", " ")}: ${what}`);
		$("first").hidden = !first.length;
		first.forEach((what, i) => put($("first_list").children[i] || $("first_list").appendChild(document.createElement("li")), what));
		while ($("first_list").children.length > first.length) $("first_list").lastElementChild.remove();
	}

	// The stream.

	let source, heard = 0, lastTime = "";

	// alive is for what replaces all that is shown.
	function alive() {
		heard = performance.now();
		lastTime = clock(Date.now());
		put($("lost"), "");
		document.body.classList.remove("stale");
	}

	function lost(why) {
		put($("lost"), why + (lastTime ? ` What you see is from ${lastTime}.` : ""));
		document.body.classList.add("stale");
	}

	// refused shows why there is no stream, which an EventSource does not tell.
	async function refused() {
		let why = "Coatcheck does not let this page listen.";
		try {
			const r = await fetch("/api/stream", { signal: AbortSignal.timeout(PATIENCE) });
			if (r.ok) r.body.cancel(); // it would now
			else why = "Coatcheck says: " + (await r.json()).error + ".";
		} catch { /* there was no answer, or none of coatcheck's */ }
		lost(why);
		setTimeout(listen, 3000);
	}

	function listen() {
		if (source) source.close();
		if (document.hidden) return;
		source = new EventSource("/api/stream");
		source.addEventListener("hello", (m) => {
			heard = performance.now();
			let events;
			({ points, steps, events } = JSON.parse(m.data));
			events.forEach(note);
			$("events").replaceChildren(...events.slice(-EVENTS).reverse().map(row));
		});
		source.addEventListener("snapshot", (m) => {
			alive();
			const s = JSON.parse(m.data);
			now = s.point.t;
			points = points.concat(s.point).filter((p) => now - p.t <= MINUTE);
			steps = steps.concat(s.steps).filter((p) => now - p.t <= HALF);
			s.workers = s.workers.filter((w) => !ends.has(w.name)); // which may be news
			showFigures(s);
			showTiles(s.workers, s.point.requests);
			showLoad(s.load);
			drawTrail(s.workers);
			drawPlots();
		});
		source.addEventListener("event", (m) => {
			heard = performance.now();
			const e = JSON.parse(m.data);
			note(e);
			if (["killed", "died", "drained", "failed", "unhealthy", "scaled"].includes(e.kind)) say(`${e.worker || "The fleet"}: ${e.kind}${e.kind === "scaled" ? " " + e.detail : ""}.`);
			if (ends.get(e.worker) === e) {
				for (const t of $("tiles").children) if (t.dataset.name === e.worker) endTile(t);
			}
			$("events").prepend(row(e)); // and leaves a list that was scrolled where it is
			while ($("events").children.length > EVENTS) $("events").lastElementChild.remove();
		});
		source.addEventListener("error", () => {
			if (source.readyState === EventSource.CLOSED) refused();
			else lost("The connection to coatcheck is lost; it is tried again.");
		});
	}
	// A browser has few connections for all pages of a host: one that nobody sees takes none.
	document.addEventListener("visibilitychange", () => {
		if (document.hidden) document.body.classList.add("stale");
		listen();
	});
	for (const e of document.querySelectorAll("[data-drawn]")) e.removeAttribute("hidden"); // they need this script
	listen();
	// A process that hangs leaves the connection open.
	setInterval(() => {
		const silent = performance.now() - heard;
		if (!heard || silent < SILENCE || source.readyState === EventSource.CLOSED) return;
		lost("Coatcheck has not said anything for a while.");
		if (silent < 3 * SILENCE) return;
		heard = performance.now();
		listen(); // the connection may be one that leads nowhere
	}, 1000);

	// Forms are sent without leaving the page.
	async function send(form) {
		const data = new FormData(form), workers = data.get("workers");
		if (workers && document.body.matches(".stale")) return say("Not now: how many servers there are is not known.");
		try {
			const r = await fetch(form.action, { method: "POST", body: new URLSearchParams(data), redirect: "manual", signal: AbortSignal.timeout(PATIENCE) });
			if (r.type === "opaqueredirect") { // done
				if (!workers) return;
				form.reset(); // what was typed
				return showTarget(Number(workers));
			}
			const text = (await r.text()).trim();
			say(text.startsWith("{") ? JSON.parse(text).error : text);
		} catch {
			say("There was no answer: the events tell whether it was done.");
		}
	}

	let scaled = Promise.resolve();
	document.addEventListener("submit", (event) => {
		event.preventDefault();
		const form = event.target;
		// One number after the other: the next is one more than this.
		if (form.elements.workers) scaled = scaled.then(() => send(form));
		else send(form);
	});
})();
