// The page Plan: the frontier under a slider, types that change, and what is held by hand.
// @ts-check
import { at, choose, chosen, complain, copy, difference, facts, get, likest, make, offer, on, post, problem, richest, say, settled, short, size, whole } from "./common.js";
import { FrontierChart } from "./chart.js";
import { Frontier, grid, parts } from "./frontier.js";
import { HeatMap, typeColour } from "./heatmap.js";
import { Files } from "./points.js";
import { Presets } from "./presets.js";
import { edit } from "./recipes.js";

/** Tensors that the list of changes names. */
const SHOWN = 60;

const map = new HeatMap(at("map"), "Types of the plan: blocks by roles. Enter holds a tensor at a type.", hold);
const chart = new FrontierChart(at("chart"), (index) => go(index));
const presets = new Presets((preset) => toPreset(preset).catch(complain));
const points = new Files(() => drawChart());
/** @type {Frontier|null} */
let frontier = null;
/** @type {Frontier|null} */
let free = null;
let files = [];
let measured = [];
let settings = {};
let index = 0;
/** The point that changes are counted from. */
let mark = 0;
/** What is held by hand. @type {{kind: string, pattern: string, type: string}[]} */
let held = [];
/** @type {{shown: string[], rows: string[], columns: string[], tensor: (row: number, column: number) => number|undefined}|null} */
let layout = null;

const names = (kind) => files.filter((file) => file.kind === kind && !file.error).map((file) => file.file);
const constraints = () => {
	/** @type {Record<string, string[]>} */
	const found = {};
	for (const each of held) (found[each.kind] ??= []).push(`${each.pattern}=${each.type}`);
	return found;
};
const f = () => /** @type {Frontier} */ (frontier);
const budget = () => f().budget(index);

// --- the slider: nothing here asks the server

function go(to) {
	if (!frontier || to < 0 || to >= frontier.points.length) return;
	index = to;
	at("budget").value = String(to);
	const point = frontier.points[to];
	keepCapacity();
	at("budget-text").textContent = `${point.bits_per_weight.toFixed(3)} bpw`;
	at("budget").setAttribute("aria-valuetext", `${point.bits_per_weight.toFixed(2)} bits per weight, ${size(point.bytes)}`);
	chart.select(to);
	showFigures(point);
	showTypes();
	showChanges();
	drawMap();
	describe();
}

const keepCapacity = settled(() => choose({ capacity: f().points[index].capacity_bytes }));

function showFigures(point) {
	const proof = point.termination === "optimal" ? "proven optimal" : point.termination;
	const rows = /** @type {[string, string, string?][]} */ ([
		["size", size(point.bytes), "big"],
		["exactly", `${whole(point.bytes)} bytes`],
		["bits per weight", point.bits_per_weight.toFixed(4)],
		["predicted loss", `${short(point.loss, 4)} ${frontier?.unit.startsWith("nats") ? "nats per token" : ""}`, "big"],
		["no plan is below", `${short(point.bound, 4)}: ${proof}${point.gap ? `, gap ${short(point.gap)}` : ""}`],
		["price of a byte (λ)", short(point.lambda)],
		["left over", `${whole(point.capacity_bytes - point.bytes)} bytes`],
		[`memory at ${at("vram-context").value}`, presets.memory(point.bytes) == null ? "–" : size(presets.memory(point.bytes))],
	]);
	if (free && free !== frontier) {
		const best = free.points[free.pointAt(point.capacity_bytes)];
		rows.push(["cost of what you hold", best.loss > 0 ? `+${(100 * (point.loss / best.loss - 1)).toFixed(1)} % of the loss` : "–"]);
	}
	facts(at("figures"), rows);
}

function showTypes() {
	const all = f().points[index].bytes;
	at("types").replaceChildren(
		make("thead", {}, make("tr", {}, ...["type", "tensors", "bytes", "share"].map((name, column) => make("th", { scope: "col", class: column ? "figure" : "" }, name)))),
		make("tbody", {}, ...f().byType(index).map((each) => {
			const patch = make("i", { "aria-hidden": "true" });
			patch.style.cssText = `display:inline-block;width:.8rem;height:.8rem;border-radius:3px;margin-right:.4rem;background:${typeColour(each.type)}`;
			return make("tr", {}, make("td", {}, patch, each.type), make("td", { class: "figure" }, each.tensors), make("td", { class: "figure" }, whole(each.bytes)), make("td", { class: "figure" }, `${((100 * each.bytes) / all).toFixed(1)} %`));
		})));
}

function showChanges() {
	const from = f().points[mark];
	const [before, after] = [f().allocations[mark], f().allocations[index]];
	const count = before.reduce((sum, each, row) => sum + Number(each !== after[row]), 0);
	at("changes-note").textContent = `${count} tensors differ from the plan at ${from.bits_per_weight.toFixed(3)} bpw${count > SHOWN ? `; the first ${SHOWN} by loss` : ""}`;
	listChanges();
}

/** The list follows when the slider rests: it is longer than a frame allows. */
const listChanges = settled(() => {
	at("changes").replaceChildren(...f().changes(mark, index).slice(0, SHOWN).map((each) => make("li", {},
		`${each.tensor}: ${each.before} `, make("span", { class: each.bytes > 0 ? "up" : "down" }, "→"), ` ${each.after} `,
		make("span", { class: "figure" }, `${each.bytes > 0 ? "+" : ""}${whole(each.bytes)} bytes`))));
}, 60);

let mapFrame = 0;

function drawMap() {
	cancelAnimationFrame(mapFrame);
	mapFrame = requestAnimationFrame(() => {
		if (!frontier || !layout || !at("map").offsetParent) return;
		const { rows, columns, shown, tensor } = layout;
		const [now, types] = [frontier, frontier.allocations[index]];
		map.show({
			rows,
			columns,
			scale: "types",
			cell: (r, c) => {
				const found = tensor(r, c);
				if (found === undefined) return null;
				const number = /** @type {number} */ (now.row.get(shown[found]));
				const type = now.types[types[number]];
				return { value: type, get title() { return `${shown[found]}: ${type}, ${size(now.bytes[number][types[number]])}, loss ${short(now.losses[number][types[number]])}`; } };
			},
			isMarked: (r, c) => { const found = tensor(r, c); return found !== undefined && isHeld(shown[found]); },
		});
	});
}

/** The command that gives this very plan. */
function words() {
	const found = ["raq-client", "solve", "-p", at("profile").value, "-b", budget()];
	for (const each of held) found.push(`--${each.kind}`, `${each.pattern}=${each.type}`);
	return found;
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

function describe() {
	at("command").textContent = words().map(quoted).join(" ");
}

// --- what is held by hand: the server solves again

/** Whether a shell glob matches, as far as this page writes them. */
const matches = (pattern, name) => new RegExp(`^${pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*")}$`).test(name);
const isHeld = (name) => held.some((each) => matches(each.pattern, name));

function hold(r, c) {
	const found = layout?.tensor(r, c);
	if (found !== undefined && layout) holdTensor(layout.shown[found]);
}

function holdTensor(name) {
	if (!frontier) return;
	const row = frontier.row.get(name);
	if (row === undefined) return;
	const { block, role } = parts(name);
	const local = name.replace(/^blk\.\d+\./, "");
	const scopes = block < 0 ? [[name, name]] : [[name, name], [`blk.*.${local}`, `${role} of all blocks`], [`blk.${block}.*`, `all tensors of block ${block}`]];
	const now = frontier.types[frontier.allocations[index][row]];
	at("hold-title").textContent = `Hold ${name}`;
	at("hold-note").textContent = `The plan gives it ${now}.`;
	at("hold-type").replaceChildren(...frontier.offered(row).map((type) => make("option", { value: type }, type)));
	at("hold-type").value = now;
	at("hold-scope").replaceChildren(...scopes.map(([pattern, text]) => make("option", { value: pattern }, text)));
	at("hold").returnValue = "";
	at("hold").showModal();
}

at("hold").addEventListener("close", () => {
	if (at("hold").returnValue !== "hold") return;
	const [kind, pattern, type] = [at("hold-kind").value, at("hold-scope").value, at("hold-type").value];
	held = [...held.filter((each) => each.pattern !== pattern || each.kind !== kind), { kind, pattern, type }];
	resolve().catch(complain);
});

function showHeld() {
	// Every command takes from raq.toml what no flag of the same kind replaces.
	const others = Object.entries(settings).filter(([kind]) => !held.some((each) => each.kind === kind)).flatMap(([kind, all]) => all.map((each) => `${kind} ${each}`));
	at("no-pins").hidden = held.length + others.length > 0;
	const said = { pin: "is", floor: "at least", ceiling: "at most" };
	at("pins").replaceChildren(...others.map((each) => make("li", {}, `${each}, by raq.toml of this folder`)), ...held.map((each) => make("li", {},
		make("span", {}, `${each.pattern} ${said[each.kind]} ${each.type}`),
		make("button", { "aria-label": `Release ${each.pattern}`, onclick: () => { held = held.filter((other) => other !== each); resolve().catch(complain); } }, "Release"))));
}

let asked = 0;

async function resolve() {
	showHeld();
	choose({ held });
	const mine = ++asked;
	const began = performance.now();
	at("price").textContent = "solving…";
	try {
		const answer = await post("frontier", { profile: at("profile").value, ...constraints() });
		if (mine !== asked) return;
		// The slider may have been moved while the server solved: it stays where it is now.
		take(new Frontier(answer), frontier?.points[index].capacity_bytes ?? chosen().capacity, frontier?.points[mark].capacity_bytes);
		at("price").textContent = held.length ? `solved again in ${Math.round(performance.now() - began)} ms` : "";
	} catch (error) {
		at("price").textContent = "";
		throw error;
	}
}

/** @param {Frontier} found */
function take(found, capacity, from) {
	if (!found.points.length) throw new Error("nothing fits any budget with these constraints");
	frontier = found;
	if (!held.length || !free) free = held.length ? free : found;
	const shown = found.choices().map((row) => found.tensors[row]);
	layout = { shown, ...grid(shown) };
	at("budget").max = String(found.points.length - 1);
	at("unit").textContent = `losses: ${found.source}`;
	const start = capacity === undefined ? Math.max(0, found.knee) : found.pointAt(capacity);
	mark = from === undefined ? start : found.pointAt(from);
	takeFiles();
	go(start);
	askPresets();
}

const askPresets = () => presets.ask({ profile: at("profile").value, ...constraints() }).then(() => { if (frontier) showFigures(f().points[index]); });

function takeFiles() {
	points.take(files, measured, { profile: at("profile").value, original: at("model").value, weights: f().total });
	drawChart();
}

function drawChart() {
	if (!frontier) return;
	chart.show(frontier, held.length ? free : null, points.measured(), points.audited());
	at("legend").replaceChildren(...chart.legend());
	chart.select(index);
}

/** Take in the plan of a budget that is none of the slider's, so that its very bytes are shown. */
async function toPlan(plan) {
	const before = f().points[mark];
	const to = f().insert(plan);
	mark = f().points.indexOf(before);
	at("budget").max = String(f().points.length - 1);
	drawChart();
	go(to);
}

/** @param {any} preset */
async function toPreset(preset) {
	const asking = { profile: at("profile").value, budget: preset.budget };
	const now = frontier;
	const [plan, open] = await Promise.all([post("plan", { ...asking, ...constraints() }), held.length ? post("plan", asking) : null]);
	if (now !== frontier) return;
	if (open?.allocation && free) free.insert(open);
	await toPlan(plan);
}

async function load() {
	const name = at("profile").value;
	at("empty").hidden = Boolean(name);
	at("content").hidden = !name;
	if (!name) return;
	choose({ profile: name, model: at("model").value, imatrix: at("imatrix").value });
	problem("");
	free = null;
	try {
		if (held.length) free = new Frontier(await post("frontier", { profile: name }));
		await resolve();
	} catch (error) {
		problem(error.message);
		if (held.length) { held = []; await resolve(); }
		return;
	}
	const { focus } = chosen();
	if (focus) { choose({ focus: null }); holdTensor(focus); }
}

async function refresh() {
	[files, measured, settings] = await Promise.all([get("folder"), get("manifests"), get("settings")]);
	showHeld();
	const before = at("profile").value;
	const models = names("model").sort((a, b) => bits(b) - bits(a));
	const profile = offer(at("profile"), names("profile"), { key: "profile" });
	offer(at("model"), models, { key: "model", none: "none", fallback: likest(profile, models) });
	offer(at("imatrix"), names("importance"), { key: "imatrix", none: "none", fallback: richest(files, at("model").value) });
	if (!frontier || profile !== before) await load();
	else takeFiles();
}

const bits = (name) => files.find((file) => file.file === name)?.bits_per_weight ?? 0;

// --- saving

const saved = () => ({
	profile: at("profile").value,
	model: at("model").value,
	imatrix: at("imatrix").value ? [at("imatrix").value] : [],
	budget: budget(),
	pin: [], floor: [], ceiling: [],
	...constraints(),
});

async function save(replace) {
	const answer = await post("save", { name: "raq.toml", fields: saved(), replace });
	if (answer.saved) { say("raq.toml is saved; raq-client run -o FILE builds it"); return; }
	if (!answer.difference) { say("raq.toml says so already"); return; }
	difference(at("difference-text"), answer.difference);
	at("difference").returnValue = "";
	at("difference").showModal();
}

at("difference").addEventListener("close", () => { if (at("difference").returnValue === "replace") save(true).catch(complain); });
at("save").addEventListener("click", () => save(false).catch(complain));
at("save-plan").addEventListener("click", async () => {
	const name = `${at("profile").value.replace(/\.profile\.json$|\.json$/, "")}.${frontier?.points[index].bits_per_weight.toFixed(2)}.plan.json`;
	try {
		await post("save", { name, fields: saved(), replace: true });
		say(`${name} is saved; raq-client quantize -a reads it`);
	} catch (error) { complain(error); }
});
at("save-recipe").addEventListener("click", () => {
	const { profile, pin, floor, ceiling, ...rest } = saved();
	const bits = f().points[index].bits_per_weight.toFixed(2);
	const stem = `${rest.model.replace(/\.gguf$/, "").replace(/-(f16|bf16|f32)$/i, "")}-${bits}bpw`;
	const kinds = Object.entries({ pin, floor, ceiling }).filter(([, all]) => all.length);
	const types = f().types.filter((type) => !/^B?F\d+$/.test(type) && f().choices().some((row) => f().bytes[row][f().at(type)] != null));
	const given = { ...rest, ...Object.fromEntries(kinds), types };
	if (!given.imatrix.length) delete /** @type {any} */ (given).imatrix;
	edit(`${stem}.recipe.toml`, { format: "raq-recipe-2", name: stem, ...given, output: { file: `${stem}.gguf` } }, true);
});
at("copy").addEventListener("click", () => copy(at("command").textContent ?? ""));
at("to-build").addEventListener("click", () => choose({ action: "run", build: { ...saved(), profile: undefined } }));

at("memory").addEventListener("submit", async (/** @type {Event} */ event) => {
	event.preventDefault();
	try {
		const asking = { vram: at("vram").value, "vram-context": at("vram-context").value, kv: at("kv").value };
		const plan = await post("plan", { profile: at("profile").value, ...asking, ...constraints() });
		at("memory-answer").textContent = plan.allocation
			? `${size(plan.capacity_bytes)} are left for weights: ${plan.bits_per_weight.toFixed(2)} bpw, loss ${short(plan.loss)}`
			: `nothing fits: even the smallest types need ${size(plan.least_bytes)}`;
		if (plan.allocation && frontier) await toPlan(plan);
	} catch (error) { at("memory-answer").textContent = error.message; }
});

at("budget").addEventListener("input", () => go(Number(at("budget").value)));
at("mark").addEventListener("click", () => { mark = index; showChanges(); });
for (const id of ["vram-context", "kv"]) at(id).addEventListener("change", () => { if (frontier) askPresets(); });
for (const id of ["profile", "model", "imatrix"]) at(id).addEventListener("change", () => load().catch(complain));
on("folder", settled(() => refresh().catch(complain)));
held = chosen().held ?? [];
refresh().catch((error) => problem(error.message));
