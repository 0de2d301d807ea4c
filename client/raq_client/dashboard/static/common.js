// What every page uses: requests, the stream of events, choices kept between pages, text.
// @ts-check

const meta = (name) => /** @type {HTMLMetaElement} */ (document.querySelector(`meta[name="${name}"]`)).content;
const TOKEN = meta("raq-token");
const KEY = `raq:${meta("raq-folder")}`;

/**
 * An element of the page by its id.
 * @returns {any}
 */
export const at = (id) => document.getElementById(id);

/**
 * A new element. Text is always set as text, never as HTML: names come from files.
 * @param {Record<string, any>} [attributes]
 * @param {...(Node|string|number|null|undefined)} children
 * @returns {any}
 */
export function make(tag, attributes = {}, ...children) {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
		else if (value === true) element.setAttribute(name, "");
		else if (value !== false && value != null) element.setAttribute(name, String(value));
	}
	element.append(...children.filter((each) => each != null).map((each) => (typeof each === "number" ? String(each) : each)));
	return element;
}

/** @param {Response} response */
async function answered(response) {
	const text = await response.text();
	let value;
	try { value = JSON.parse(text); } catch { value = { error: text }; }
	if (!response.ok) throw new Error(value.error || `the dashboard answered ${response.status}`);
	return value;
}

/** @param {Record<string, string|string[]>} [query] a list is given once for each value */
export async function get(path, query = {}) {
	const pairs = Object.entries(query).flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
	return answered(await fetch(`/api/${path}?${new URLSearchParams(pairs)}`));
}

export async function post(path, value) {
	const headers = { "content-type": "application/json", "x-raq-token": TOKEN };
	return answered(await fetch(`/api/${path}`, { method: "POST", headers, body: JSON.stringify(value) }));
}

/** Say something for a few seconds. */
export function say(text, bad = false) {
	const message = make("p", { class: bad ? "bad" : "" }, text);
	at("messages").append(message);
	setTimeout(() => message.remove(), bad ? 12000 : 5000);
}

export const complain = (error) => say(error instanceof Error ? error.message : String(error), true);

/** Show why the page can't be filled; an empty text takes it away. */
export function problem(text) {
	at("problem").textContent = text;
	at("problem").hidden = !text;
}

// --- what was chosen, kept for the next page

/** @returns {Record<string, any>} */
export function chosen() {
	try { return JSON.parse(localStorage.getItem(KEY) || "{}"); } catch { return {}; }
}

/** @param {Record<string, any>} values */
export function choose(values) {
	localStorage.setItem(KEY, JSON.stringify({ ...chosen(), ...values }));
}

/**
 * Fill a select with files; the kept choice stays if it is there, else `fallback`, else the first.
 * @param {HTMLSelectElement} select
 * @param {string[]} names
 * @param {{key: string, none?: string, fallback?: string}} options
 * @returns {string} the chosen name, or ""
 */
export function offer(select, names, { key, none, fallback }) {
	const before = select.value || chosen()[key];
	select.replaceChildren(
		...(none === undefined ? [] : [make("option", { value: "" }, none)]),
		...names.map((name) => make("option", { value: name }, name)),
	);
	const wanted = [before, fallback].find((name) => name !== undefined && (names.includes(name) || (name === "" && none !== undefined)));
	select.value = wanted ?? (none === undefined ? names[0] ?? "" : "");
	select.disabled = !select.options.length;
	return select.value;
}

/** The file whose name begins most like another's. */
export function likest(name, names) {
	const common = (other) => {
		let length = 0;
		while (length < name.length && name[length] === other[length]) length++;
		return length;
	};
	return [...names].sort((a, b) => common(b) - common(a))[0];
}

/** The importance file to offer for a model: of those whose name begins like the model's the largest, which has most. */
export function richest(files, model) {
	const found = files.filter((file) => file.kind === "importance" && !file.error && file.file.slice(0, 4) === model.slice(0, 4));
	return found.sort((a, b) => b.bytes - a.bytes)[0]?.file ?? "";
}

export const whole = (value) => Math.round(value).toLocaleString("en");

export function size(bytes) {
	for (const [unit, factor] of /** @type {[string, number][]} */ ([["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]])) {
		if (bytes >= factor) return `${(bytes / factor).toFixed(2)} ${unit}`;
	}
	return `${bytes} B`;
}

export function short(value, digits = 3) {
	if (value == null || Number.isNaN(value)) return "–";
	if (value === 0) return "0";
	const magnitude = Math.abs(value);
	return magnitude >= 1e5 || magnitude < 1e-3 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
}

/** @param {{value: number, window_error: number|null}|null|undefined} estimate */
export function plusMinus(estimate) {
	if (!estimate) return "–";
	return estimate.window_error == null ? short(estimate.value) : `${short(estimate.value)} ± ${short(estimate.window_error, 2)}`;
}

export function duration(seconds) {
	if (seconds == null) return "";
	if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
	if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
	return `${(seconds / 3600).toFixed(1)} h`;
}

export async function copy(text) {
	try {
		await navigator.clipboard.writeText(text);
		say("copied");
	} catch {
		say("the browser does not allow copying; select the text instead", true);
	}
}

/** Show a unified diff. */
export function difference(box, text) {
	box.replaceChildren(...text.split("\n").map((line) => make("span", { class: line.startsWith("+") ? "added" : line.startsWith("-") ? "removed" : "" }, `${line}\n`)));
}

/**
 * Call a function a moment after the last of several calls.
 * @param {() => void} call
 */
export function settled(call, milliseconds = 200) {
	let timer = 0;
	return () => { clearTimeout(timer); timer = window.setTimeout(call, milliseconds); };
}

/**
 * The lines of a definition list.
 * @param {[string, string, string?][]} rows
 */
export function facts(list, rows) {
	list.replaceChildren(...rows.flatMap(([name, value, kind]) => [make("dt", {}, name), make("dd", { class: kind }, value)]));
}


/** @type {Map<string, ((value: any) => void)[]>} */
const listeners = new Map();

/** @param {(value: any) => void} listener */
export function on(event, listener) {
	listeners.set(event, [...(listeners.get(event) ?? []), listener]);
}

function listen() {
	const stream = new EventSource("/events");
	let wasLost = false;
	const tell = (event, value) => (listeners.get(event) ?? []).forEach((each) => each(value));
	stream.onerror = () => {
		if (!wasLost) say("The dashboard does not answer. Jobs go on without it; start it again, and open its new address.", true);
		wasLost = true;
	};
	stream.addEventListener("hello", () => {
		if (wasLost) { tell("folder", {}); tell("queue", []); }
		wasLost = false;
	});
	for (const event of ["job", "queue", "folder"]) {
		stream.addEventListener(event, (message) => tell(event, JSON.parse(/** @type {MessageEvent} */ (message).data)));
	}
}


/** @type {Map<number, any>} */
const running = new Map();

function shown(job) {
	if (job.state === "running" || job.state === "ending") running.set(job.id, job);
	else running.delete(job.id);
	const current = [...running.values()][0];
	at("running").hidden = !current;
	if (current) {
		const stage = current.stages.at(-1);
		const share = stage && stage.total ? ` ${Math.floor((100 * stage.done) / stage.total)} %` : "";
		at("running").textContent = `job ${current.id}: ${stage ? stage.stage : current.action}${share}`;
	}
}

on("job", shown);
get("jobs").then((found) => found.unfinished.forEach(shown)).catch(() => {});
listen();
