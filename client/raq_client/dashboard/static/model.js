// The page Model: what the file holds, and where it is sensitive.
// @ts-check
import { at, choose, chosen, complain, duration, facts, get, likest, make, offer, on, plusMinus, post, problem, richest, short, size, whole } from "./common.js";
import { Frontier, grid } from "./frontier.js";
import { HeatMap } from "./heatmap.js";

const map = new HeatMap(at("map"), "Map of the model: blocks by roles", pick);
/** @type {any} */ let model = null;
/** @type {any} */ let profile = null;
/** @type {Frontier|null} */
let frontier = null;
/** @type {Map<string, any>|null} */
let importance = null;
/** @type {Map<string, any>|null} */
let ratios = null;
/** @type {any} */ let paths = null;
/** How the two importance files differ: by blocks and experts, or by blocks and inputs. @type {any} */
let contrast = null;
let files = [];

const byName = (/** @type {any[]} */ rows) => new Map(rows.map((row) => [row.name, row]));
const names = (kind) => files.filter((file) => file.kind === kind && !file.error).map((file) => file.file);
const f = () => /** @type {Frontier} */ (frontier);
const point = () => (frontier ? (chosen().capacity ? frontier.pointAt(chosen().capacity) : Math.max(0, frontier.knee)) : 0);

/**
 * What the map can show. `value` is null or undefined where nothing is known.
 * @type {Record<string, {name: string, unit: string, needs: () => any, value: (name: string, type: string) => any, say: (name: string, type: string) => string, log?: boolean, scale?: "signed"|"types", types?: boolean, rank?: boolean}>}
 */
const QUANTITIES = {
	worth: {
		name: "worth of the next byte", unit: "loss per byte", needs: () => frontier, log: true, rank: true,
		value: (name) => row(name, (each) => f().worth(each, point())),
		say: (name) => `a further byte saves ${short(QUANTITIES.worth.value(name, ""))} at ${bpw()}`,
	},
	chosen: {
		name: "chosen type", unit: "", needs: () => frontier, scale: "types",
		value: (name) => row(name, (each) => f().types[f().allocations[point()][each]]),
		say: (name) => `${QUANTITIES.chosen.value(name, "")} at ${bpw()}`,
	},
	loss: {
		name: "loss at a type", unit: "", needs: () => frontier, log: true, types: true, rank: true,
		value: (name, type) => row(name, (each) => f().losses[each][column(type)]),
		say: (name, type) => `loss ${short(QUANTITIES.loss.value(name, type))} as ${type}`,
	},
	error: {
		name: "error at a type", unit: "of the energy", needs: () => profile, log: true, types: true,
		value: (name, type) => measured(name, (each) => each.relative_errors[profile.quant_types.indexOf(type)]),
		say: (name, type) => `relative squared error ${short(QUANTITIES.error.value(name, type))} as ${type}`,
	},
	sensitivity: {
		name: "measured sensitivity", unit: "", needs: () => profile?.tensors.some((each) => each.sensitivity != null), log: true, rank: true,
		value: (name) => measured(name, (each) => each.sensitivity),
		say: (name) => measured(name, (each) => `sensitivity ${plusMinus({ value: each.sensitivity, window_error: each.sensitivity_error })}`) ?? "",
	},
	importance: {
		name: "importance", unit: "mean squared input", needs: () => importance, log: true, rank: true,
		value: (name) => known(importance, name, (each) => (each.tokens ? each.mean : null)),
		say: (name) => known(importance, name, (each) => `mean squared input ${short(each.mean)}, sum ${short(each.total)}, ${whole(each.tokens)} tokens${each.silent_experts ? `, ${each.silent_experts} of ${each.experts} experts never reached` : ""}`) ?? "no data",
	},
	perWeight: {
		name: "importance per weight", unit: "", needs: () => importance, log: true,
		value: (name) => known(importance, name, (each) => each.total / weights(name)),
		say: (name) => `sum of squared inputs per weight ${short(QUANTITIES.perWeight.value(name, ""))}`,
	},
	ratio: {
		name: "against the other importance", unit: "log₂ of the ratio", needs: () => ratios, scale: "signed", rank: true,
		value: (name) => known(ratios, name, (each) => Math.log2(each.ratio)),
		say: (name) => known(ratios, name, (each) => `ratio ${short(each.ratio)}${each.interval ? ` (95 %: ${short(each.interval[0])} to ${short(each.interval[1])})` : ""}, ${each.verdict}${each.tied.length ? `; one input with ${each.tied.join(", ")}` : ""}`) ?? "no data",
	},
	bytes: {
		name: "bytes in this file", unit: "bytes", needs: () => model, log: true, rank: true,
		value: (name) => stored(name)?.bytes,
		say: (name) => { const each = stored(name); return each ? `${size(each.bytes)} as ${each.type}, ${each.shape.join(" × ")}` : ""; },
	},
	type: {
		name: "type in this file", unit: "", needs: () => model, scale: "types",
		value: (name) => stored(name)?.type,
		say: (name) => QUANTITIES.bytes.say(name, ""),
	},
};

/**
 * What the map of blocks and experts can show.
 * @type {Record<string, {name: string, unit: string, scale: "sequence"|"signed", of: () => any, cell: (block: any, column: number) => any, say: (block: any, column: number) => string}>}
 */
const EXPERTS = {
	heat: {
		name: "use of experts", unit: "heat", scale: "sequence", of: () => paths,
		cell: (block, column) => block.heat[column],
		say: (block, column) => `heat ${short(block.heat[column])}, ${(100 * block.share).toFixed(1)} % of all in this block`,
	},
	contrast: {
		name: "against the other importance", unit: "difference of shares", scale: "signed", of: () => contrast,
		cell: (block, column) => block.deltas[column],
		say: (block, column) => `share ${block.deltas[column] >= 0 ? "+" : ""}${short(block.deltas[column])}`,
	},
};

const row = (name, /** @type {(row: number) => any} */ value) => {
	const found = frontier?.row.get(name);
	return found === undefined ? null : value(found) ?? null;
};
const column = (type) => frontier?.column.get(type) ?? -1;
const known = (/** @type {Map<string, any>|null} */ rows, name, /** @type {(each: any) => any} */ value) => {
	const found = rows?.get(name);
	return found ? value(found) : null;
};
/** @type {Map<string, any>} */
let measurements = new Map();
const measured = (name, /** @type {(each: any) => any} */ value) => known(measurements, name, value);
/** @type {Map<string, any>} */
let tensors = new Map();
const stored = (name) => tensors.get(name);
const weights = (name) => (stored(name)?.shape ?? [1]).reduce((all, each) => all * each, 1);
const bpw = () => `${frontier?.points[point()].bits_per_weight.toFixed(2)} bpw`;

/** Tensors on the map: those that a plan can choose for; of an unmeasured model the matrices. */
function mapped() {
	if (frontier) return frontier.choices().map((each) => f().tensors[each]);
	return [...tensors.values()].filter((each) => each.shape.length > 1).map((each) => each.name);
}

function show() {
	const quantity = QUANTITIES[at("quantity").value];
	if (at("quantity").value in EXPERTS) { at("type-label").hidden = true; showExperts(EXPERTS[at("quantity").value]); return; }
	at("type-label").hidden = !quantity?.types;
	if (!quantity) return;
	const type = at("type").value;
	const shown = mapped();
	const { rows, columns, tensor } = grid(shown);
	const cell = (r, c) => {
		const index = tensor(r, c);
		if (index === undefined) return null;
		const name = shown[index];
		const value = quantity.value(name, type);
		return { value: value === undefined ? null : value, title: `${name}: ${value == null ? "no data" : quantity.say(name, type)}` };
	};
	map.show({ rows, columns, cell, scale: quantity.scale ?? "sequence", log: quantity.log, unit: quantity.unit });
	if (at("as-table").open) showTable(rows, columns, cell);
}

function showExperts(quantity) {
	const { blocks, columns } = quantity.of();
	const cell = (r, c) => {
		const value = quantity.cell(blocks[r], c);
		return { value, title: `block ${blocks[r].block}, expert ${columns[c]}: ${value == null ? "no token reached it" : quantity.say(blocks[r], c)}` };
	};
	const rows = blocks.map((each) => String(each.block));
	map.show({ rows, columns: columns.map(String), cell, scale: quantity.scale, unit: quantity.unit });
	if (at("as-table").open) showTable(rows, columns.map(String), cell);
}

/** Inputs that two files know: tensors that read the same one are one. */
function inputs() {
	const rows = [...(ratios?.values() ?? [])];
	return rows.filter((each) => each.tied.every((other) => each.name < other));
}

/** Say in a line how the two importance files differ. */
function showBanner() {
	at("banner").hidden = !ratios;
	if (!ratios) return;
	const all = inputs();
	const cells = (contrast?.blocks ?? []).flatMap((block) => block.deltas).filter((each) => each != null);
	const changed = all.filter((each) => each.domain_level !== each.general_level);
	const changedCells = cells.filter((each) => each !== 0);
	const isSame = !changed.length && !changedCells.length;
	at("banner").className = isSame ? "banner same" : "banner";
	if (isSame) { at("banner").textContent = `Exact match: all ${all.length} inputs${cells.length ? ` and ${cells.length} cells` : ""} of the two files are the same.`; return; }
	const blocks = (contrast?.most_distinctive ?? []).slice(0, 3).map((block) => {
		const found = contrast.blocks.find((each) => each.block === block);
		return `${block} (${short(found.divergence)}: ${found.leading.slice(0, 2).join(", ")})`;
	});
	const sure = all.filter((each) => each.interval && (each.interval[0] > 1 || each.interval[1] < 1)).length;
	at("banner").textContent = [
		`${changed.length} of ${all.length} inputs differ${all.some((each) => each.interval) ? `, ${sure} by more than their 95 % interval` : ""}.`,
		`${changedCells.length} of ${cells.length} cells differ.`,
		blocks.length ? `Most distinctive blocks: ${blocks.join("; ")}.` : "",
	].filter(Boolean).join(" ");
}

/** @param {(row: number, column: number) => any} cell */
function showTable(rows, columns, cell) {
	const text = (each) => (each == null ? "" : each.value == null ? "no data" : typeof each.value === "number" ? short(each.value) : each.value);
	at("table").replaceChildren(make("table", {},
		make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "block"), ...columns.map((name) => make("th", { scope: "col", class: "figure" }, name)))),
		make("tbody", {}, ...rows.map((name, r) => make("tr", {}, make("th", { scope: "row" }, name), ...columns.map((_, c) => make("td", { class: "figure" }, text(cell(r, c)))))))));
}

function showRanks() {
	const quantity = QUANTITIES[at("ranking").value];
	if (!quantity) { at("ranks").replaceChildren(); at("ranking-note").textContent = "Measure the model, or choose an importance file."; return; }
	const type = at("type").value;
	const far = (value) => (quantity.scale === "signed" ? Math.abs(value) : value);
	const ranked = mapped().map((name) => ({ name, value: quantity.value(name, type) })).filter((each) => typeof each.value === "number").sort((a, b) => far(b.value) - far(a.value));
	at("ranks").replaceChildren(...ranked.slice(0, 12).map((each) => make("li", {}, `${each.name} `, make("span", { class: "figure" }, short(each.value)))));
	at("ranking-note").textContent = at("ranking").value === "importance" || at("ranking").value === "ratio"
		? "Large inputs do not mean large damage: this does not rank tensors by what quantizing them costs."
		: quantity.unit;
}

function showFacts() {
	at("content").hidden = !model;
	if (!model) return;
	facts(at("facts"), [
		["name", model.name, "big"],
		["architecture", `${model.architecture || "unknown"}, ${model.blocks} blocks${model.experts ? `, ${model.experts} experts, ${model.experts_used} used` : ""}`],
		["weights", whole(model.weights)],
		["tensor data", `${size(model.tensor_bytes)}, ${model.bits_per_weight.toFixed(2)} bits per weight`],
		["context", model.context ? `${whole(model.context)} tokens` : "not stated"],
	]);
	const kinds = model.structure;
	const inBlocks = kinds.filter((kind) => kind.blocks[0] >= 0);
	/** @type {[number, number][]} */
	const cells = inBlocks.flatMap((kind, index) => kind.blocks.map((block) => [block, index]));
	const strip = make("div", { class: "strip", role: "img", "aria-label": `${cells.length} blocks of ${inBlocks.length} kinds, in order` },
		...cells.sort((a, b) => a[0] - b[0]).map(([block, index]) => make("i", { class: `kind-${Math.min(index, 4)}`, title: `block ${block}` })));
	const lines = kinds.map((kind) => {
		const index = inBlocks.indexOf(kind);
		const roles = kind.tensors.map((each) => each.role).join(", ");
		const name = index < 0 ? "outside of blocks" : `${kind.blocks.length} equal block${kind.blocks.length > 1 ? "s" : ""}`;
		return make("li", {}, index < 0 ? null : make("i", { class: `kind-${Math.min(index, 4)}` }), `${name}, ${size(kind.bytes)}: ${roles}`);
	});
	at("structure").replaceChildren(strip, make("ul", { class: "kinds" }, ...lines));
}

/** @param {HTMLSelectElement} select */
function offerQuantities(select, keys, first, experts = false) {
	const before = select.dataset.touched ? select.value : first;
	const usable = keys.filter((key) => (experts ? EXPERTS[key].of() : QUANTITIES[key].needs()));
	select.replaceChildren(...usable.map((key) => make("option", { value: key }, (experts ? EXPERTS : QUANTITIES)[key].name)));
	select.value = usable.includes(before) ? before : usable[0] ?? "";
}

function showAll() {
	showFacts();
	if (!model) return;
	const isExperts = paths?.cells === "experts";
	at("cells-label").hidden = !isExperts;
	if (!at("cells").options.length) at("cells").replaceChildren(make("option", { value: "roles" }, "roles"), make("option", { value: "experts" }, "experts"));
	if (!isExperts) at("cells").value = "roles";
	if (at("cells").value === "experts") offerQuantities(at("quantity"), Object.keys(EXPERTS), "heat", true);
	else offerQuantities(at("quantity"), Object.keys(QUANTITIES), "worth");
	showBanner();
	offerQuantities(at("ranking"), Object.keys(QUANTITIES).filter((key) => QUANTITIES[key].rank), "worth");
	const types = frontier ? frontier.types : profile?.quant_types ?? [];
	const before = at("type").value;
	at("type").replaceChildren(...types.map((each) => make("option", { value: each }, each)));
	at("type").value = types.includes(before) ? before : types.includes("Q4_K") ? "Q4_K" : types[0] ?? "";
	show();
	showRanks();
}

function pick(_row, _column) {
	const shown = mapped();
	if (!frontier || at("cells").value === "experts") return;
	const index = grid(shown).tensor(_row, _column);
	if (index === undefined) return;
	choose({ focus: shown[index] });
	location.href = "/plan";
}

let asked = 0;

/** Ask for everything that belongs to the chosen files. */
async function load() {
	const mine = ++asked;
	const [name, imatrix, general, measuredBy] = ["model", "imatrix", "general", "profile"].map((id) => at(id).value);
	choose({ model: name, imatrix, general, profile: measuredBy });
	/** @type {string[]} */
	const faults = [];
	const or = (/** @type {Promise<any>} */ promise) => promise.catch((error) => { faults.push(error.message); return null; });
	const later = () => mine !== asked;
	model = name ? await or(get("model", { file: name })) : null;
	if (later()) return;
	tensors = byName(model?.tensors ?? []);
	[profile, frontier, importance, ratios, paths, contrast] = [null, null, null, null, null, null];
	showAll();
	const more = (id) => [...at(id).selectedOptions].map((each) => each.value).filter((each) => each !== imatrix && each !== general);
	const [found, swept, shown, compared, lit, differs] = await Promise.all([
		measuredBy ? or(get("profile", { file: measuredBy })) : null,
		measuredBy ? or(post("frontier", { profile: measuredBy })) : null,
		imatrix ? or(get("importance", { file: imatrix })) : null,
		imatrix && general ? or(get("ratio", { domain: imatrix, general, "domain-part": more("domain-parts"), "general-part": more("general-parts") })) : null,
		imatrix && model?.experts ? or(get("paths", { file: imatrix })) : null,
		imatrix && general ? or(get("paths", { file: imatrix, against: general })) : null,
	]);
	if (later()) return;
	profile = found;
	measurements = byName(found?.tensors ?? []);
	frontier = swept ? new Frontier(swept) : null;
	importance = shown ? byName(shown) : null;
	ratios = compared ? byName(compared.rows) : null;
	[paths, contrast] = [lit, differs];
	problem(faults.join("\n"));
	showAll();
	preflight().catch(complain);
}

// --- measuring
/** @type {any} */ let measuring = null;
const fields = () => ({
	model: at("model").value,
	imatrix: at("imatrix").value ? [at("imatrix").value] : [],
	output: `${at("model").value.replace(/\.gguf$/, "")}.profile.json`,
});

async function preflight() {
	at("measure").hidden = Boolean(at("profile").value) || !model;
	if (at("measure").hidden) return;
	const { profile: found } = await post("preflight", { actions: { profile: fields() } });
	at("measure-command").textContent = found.command;
	at("measure-reasons").replaceChildren(...found.reasons.map((each) => make("li", {}, each)));
	at("measure-start").disabled = found.reasons.length > 0;
}

at("measure-start").addEventListener("click", async () => {
	at("measure-start").disabled = true;
	try { measuring = await post("jobs", { action: "profile", fields: fields() }); } catch (error) { complain(error); }
});

on("job", (job) => {
	if (job.action !== "profile" || (measuring && job.id !== measuring.id)) return;
	const stage = job.stages.at(-1);
	at("measure-progress").textContent = job.error ?? (stage ? `${stage.stage}: ${stage.done} of ${stage.total}${stage.left ? `, ${duration(stage.left)} left` : ""}` : job.state);
	if (job.state === "done") at("profile").dataset.wanted = job.output[0];
});

async function refresh() {
	files = await get("folder");
	const before = ["model", "imatrix", "general", "profile"].map((id) => at(id).value).join("\n");
	const models = names("model").sort((a, b) => bits(b) - bits(a));
	const name = offer(at("model"), models, { key: "model" });
	offer(at("imatrix"), names("importance"), { key: "imatrix", none: "none", fallback: richest(files, name) });
	offer(at("general"), names("importance"), { key: "general", none: "nothing" });
	at("parts").hidden = !at("general").value;
	for (const id of ["domain-parts", "general-parts"]) {
		const before = new Set([...at(id).selectedOptions].map((each) => each.value));
		at(id).replaceChildren(...names("importance").map((each) => make("option", { value: each }, each)));
		for (const option of at(id).options) option.selected = before.has(option.value);
	}
	const profiles = names("profile");
	const wanted = at("profile").dataset.wanted;
	if (wanted && profiles.includes(wanted)) { choose({ profile: wanted }); at("profile").value = ""; delete at("profile").dataset.wanted; }
	offer(at("profile"), profiles, { key: "profile", none: "none", fallback: likest(name, profiles.filter((each) => each.startsWith(name.slice(0, 4)))) });
	at("empty").hidden = models.length > 0;
	if (["model", "imatrix", "general", "profile"].map((id) => at(id).value).join("\n") !== before) await load();
	else await preflight();
}

const bits = (name) => files.find((file) => file.file === name)?.bits_per_weight ?? 0;

for (const id of ["model", "imatrix", "general", "profile", "domain-parts", "general-parts"]) {
	at(id).addEventListener("change", () => { at("parts").hidden = !at("general").value; load().catch(complain); });
}
for (const id of ["quantity", "ranking"]) at(id).addEventListener("change", () => { at(id).dataset.touched = "yes"; });
at("quantity").addEventListener("change", show);
at("cells").addEventListener("change", () => { delete at("quantity").dataset.touched; showAll(); });
at("type").addEventListener("change", () => { show(); showRanks(); });
at("ranking").addEventListener("change", showRanks);
at("as-table").addEventListener("toggle", show);
on("folder", () => refresh().catch(complain));
refresh().catch((error) => problem(error.message));
