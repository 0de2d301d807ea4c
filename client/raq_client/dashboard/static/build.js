// The page Build: a form for each kind of job, the queue, what has been done.
// @ts-check
import { at, choose, chosen, complain, copy, get, make, on, post, problem, richest, settled } from "./common.js";
import { jobCard, outcome } from "./jobs.js";
import { edit, showRecipes } from "./recipes.js";

/** @typedef {{name: string, label: string, kind: "file"|"files"|"text"|"lines"|"flag"|"output", from?: string, none?: string, hint?: string}} Field */

const MODEL = /** @type {Field} */ ({ name: "model", label: "Model", kind: "file", from: "model" });
const IMATRIX = /** @type {Field} */ ({ name: "imatrix", label: "Importance", kind: "files", from: "importance", none: "none" });
const TEXT = /** @type {Field} */ ({ name: "text", label: "Text", kind: "files", from: "text", none: "none" });
const WINDOWS = /** @type {Field} */ ({ name: "windows", label: "Windows of the text", kind: "text", hint: "all" });
const FORCE = /** @type {Field} */ ({ name: "force", label: "Replace the file if it is there", kind: "flag" });
const output = (hint) => /** @type {Field} */ ({ name: "output", label: "File to write", kind: "output", hint });

/** @type {Record<string, {name: string, about: string, fields: Field[]}>} */
const ACTIONS = {
	run: {
		name: "Build", about: "Plan for a budget, write the file, measure it on a text.",
		fields: [MODEL, IMATRIX, { name: "budget", label: "Budget", kind: "text", hint: "5.0 or 4.2GiB" }, TEXT, WINDOWS,
			{ name: "constraints", label: "Held by hand, a line each: pin, floor, ceiling, exclude, tie, at-most, region, monotone, exo", kind: "lines", hint: "pin output.weight=Q6_K" },
			{ name: "trial", label: "Try alternatives in memory first", kind: "flag" }, output(".gguf"), FORCE],
	},
	profile: {
		name: "Measure errors", about: "The error of every tensor at every type, which plans are made from.",
		fields: [MODEL, IMATRIX, { name: "types", label: "Types", kind: "text", hint: "auto" }, { name: "rows", label: "Rows of each matrix", kind: "text", hint: "all" }, output(".profile.json"), FORCE],
	},
	collect: {
		name: "Collect importance", about: "Run a text through the model.",
		fields: [MODEL, { ...TEXT, none: undefined }, { name: "fisher", label: "Windows of Fisher information", kind: "text", hint: "16" }, output(".imatrix.gguf"), FORCE],
	},
	recipe: { name: "Build a recipe", about: "What a file of this folder states.", fields: [{ name: "recipe", label: "Recipe", kind: "file", from: "recipe" }, FORCE] },
	quantize: { name: "Write a saved plan", about: "The file of a plan that was saved before.", fields: [MODEL, { name: "plan", label: "Plan", kind: "file", from: "plan" }, IMATRIX, output(".gguf"), FORCE] },
	check: { name: "Check a file", about: "Its KL divergence and perplexity on a text.", fields: [{ name: "candidate", label: "Quantized file", kind: "file", from: "quantized" }, MODEL, { ...TEXT, none: undefined }, WINDOWS] },
};
let files = [];
let action = ACTIONS[chosen().action] ? chosen().action : "run";
/** What was typed, by action. @type {Record<string, Record<string, any>>} */
const typed = Object.fromEntries(Object.keys(ACTIONS).map((key) => [key, {}]));

/** @param {Field} field */
function choices(field) {
	const models = files.filter((file) => file.kind === "model" && !file.error).sort((a, b) => (b.bits_per_weight ?? 0) - (a.bits_per_weight ?? 0)).map((file) => file.file);
	if (field.from === "model") return models;
	if (field.from === "quantized") return [...models].reverse();
	return files.filter((file) => file.kind === field.from && !file.error).map((file) => file.file);
}

/** The fields of an action as the server takes them. */
function fieldsOf(key) {
	/** @type {Record<string, any>} */
	const found = {};
	for (const field of ACTIONS[key].fields) {
		const value = typed[key][field.name] ?? initial(field, key);
		if (field.kind === "files") found[field.name] = value ? [value] : [];
		else if (field.kind === "lines") {
			for (const line of value.split("\n").map((each) => each.trim()).filter(Boolean)) {
				const space = line.search(/\s/);
				const kind = space < 0 ? line : line.slice(0, space);
				(found[kind] ??= []).push(space < 0 ? "" : line.slice(space + 1).trim());
			}
		} else found[field.name] = value;
	}
	return found;
}

/** @param {Field} field @returns {any} */
function initial(field, key) {
	const kept = chosen().build ?? {};
	const plain = (value) => (Array.isArray(value) ? value[0] ?? "" : value);
	if (field.kind === "flag") return false;
	if (field.kind === "lines") {
		return ["pin", "floor", "ceiling"].flatMap((kind) => (kept[kind] ?? []).map((each) => `${kind} ${each}`)).join("\n");
	}
	if (field.kind === "output") return suggestion(key, field.hint ?? "");
	const names = choices(field);
	const before = plain(kept[field.name]) ?? chosen()[field.name];
	if (field.kind === "text") return before ?? "";
	if (names.includes(before) || (before === "" && field.none)) return before;
	return field.none ? (field.name === "imatrix" ? richest(files, typed[key].model ?? initial(MODEL, key)) : "") : names[0] ?? "";
}

/** A name for the file to write, from what it is made of. @returns {string} */
function suggestion(key, ending) {
	const model = typed[key].model ?? initial(MODEL, key);
	const stem = model.replace(/\.gguf$/, "").replace(/-(f16|bf16|f32)$/i, "");
	const budget = String(typed[key].budget ?? (chosen().build ?? {}).budget ?? "");
	const label = /^[\d.]+$/.test(budget) ? `${Number(Number(budget).toFixed(2))}bpw` : budget;
	if (key === "run") return stem && label ? free(`${stem}-${label}`, ending) : "";
	if (key === "quantize") return stem ? free(`${stem}-raq`, ending) : "";
	return model ? free(model.replace(/\.gguf$/, ""), ending) : "";
}

function free(stem, ending) {
	const taken = new Set(files.map((file) => file.file));
	let name = stem + ending;
	for (let number = 2; taken.has(name); number++) name = `${stem}-${number}${ending}`;
	return name;
}

/** @param {Field} field */
function input(field) {
	const value = typed[action][field.name] ?? initial(field, action);
	const set = (to) => { typed[action][field.name] = to; if (field.name !== "output" && typed[action].output === undefined) showOutput(); check(); };
	if (field.kind === "flag") {
		const box = make("input", { type: "checkbox", id: `field-${field.name}`, onchange: () => set(box.checked) });
		box.checked = Boolean(value);
		return make("label", { class: "check" }, box, field.label);
	}
	if (field.kind === "file" || field.kind === "files") {
		const select = make("select", { id: `field-${field.name}`, onchange: () => set(select.value) },
			...(field.none === undefined ? [] : [make("option", { value: "" }, field.none)]), ...choices(field).map((name) => make("option", { value: name }, name)));
		select.value = value;
		return make("label", {}, field.label, select);
	}
	const box = make(field.kind === "lines" ? "textarea" : "input", { id: `field-${field.name}`, placeholder: field.hint, spellcheck: "false", oninput: () => set(box.value) });
	box.value = value;
	return make("label", {}, field.label, box);
}

function showOutput() {
	const field = ACTIONS[action].fields.find((each) => each.kind === "output");
	if (field) at("field-output").value = initial(field, action);
}

function showForm() {
	at("form").replaceChildren(...ACTIONS[action].fields.map(input));
	check();
}

function showActions() {
	at("actions").replaceChildren(...Object.entries(ACTIONS).map(([key, each]) => {
		const radio = make("input", { type: "radio", name: "action", value: key, onchange: () => { action = key; choose({ action }); showForm(); } });
		radio.checked = key === action;
		return make("label", {}, radio, make("span", {}, each.name), make("small", { id: `about-${key}` }, each.about));
	}));
}

let asked = 0;

/** Ask what each action would do now, and what stands in its way. */
const check = settled(async () => {
	const mine = ++asked;
	try {
		const found = await post("preflight", { actions: Object.fromEntries(Object.keys(ACTIONS).map((key) => [key, fieldsOf(key)])) });
		if (mine !== asked) return;
		for (const key of Object.keys(ACTIONS)) {
			const about = at(`about-${key}`);
			about.textContent = found[key].reasons[0] ?? ACTIONS[key].about;
			about.className = found[key].reasons.length ? "blocked" : "";
			about.title = about.textContent;
		}
		at("command").textContent = found[action].command;
		at("reasons").replaceChildren(...found[action].reasons.map((each) => make("li", {}, each)));
		at("start").disabled = found[action].reasons.length > 0;
	} catch (error) {
		at("reasons").replaceChildren(make("li", {}, error.message));
		at("start").disabled = true;
	}
});

at("start").addEventListener("click", async () => {
	at("start").disabled = true;
	try { await post("jobs", { action, fields: fieldsOf(action) }); } catch (error) { complain(error); }
	check();
});
at("copy").addEventListener("click", () => copy(at("command").textContent ?? ""));
at("form").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());

// --- the jobs
/** All that are shown, by number. @type {Map<number, any>} */
const jobs = new Map();
/** Numbers of those that run or wait, in the order of the queue. @type {number[]} */
let queue = [];
/** @type {Map<number, string>} */
const outcomes = new Map();

// Cards stand by number, the newest first: a job keeps its place from its start to its end.
function showJobs() {
	const waiting = queue.filter((number) => jobs.get(number)?.state === "queued");
	at("none").hidden = jobs.size > 0;
	at("queued").textContent = queue.length ? `${queue.length - waiting.length ? "one runs" : "none runs"}, ${waiting.length} wait${waiting.length === 1 ? "s" : ""}` : "nothing runs or waits";
	const shown = [...jobs.values()].sort((a, b) => b.id - a.id);
	refill(at("jobs"), shown.map((job) => jobCard(job, { place: waiting.indexOf(job.id) + 1, isLast: job.id === waiting.at(-1), outcome: outcomes.get(job.id) })));
}

/** Replace cards, keeping the focus and what is open. */
function refill(box, cards) {
	const focused = document.activeElement && box.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
	const open = new Set([...box.querySelectorAll("details[open]")].map((each) => each.closest("article")?.id));
	cards.forEach((card) => { if (open.has(card.id)) card.querySelector("details")?.setAttribute("open", ""); });
	box.replaceChildren(...cards);
	if (focused) /** @type {HTMLElement|null} */ (box.querySelector(`[aria-label="${focused}"]`))?.focus();
}

async function learn(job) {
	if (job.state !== "done" || outcomes.has(job.id) || !job.command.includes("--json")) return;
	outcomes.set(job.id, "");
	try { outcomes.set(job.id, outcome(job, await get(`jobs/${job.id}/result`))); } catch { outcomes.delete(job.id); }
	showJobs();
}

/** Take in a page of jobs. */
function take(found) {
	for (const job of [...found.unfinished, ...found.finished]) jobs.set(job.id, job);
	queue = found.unfinished.map((job) => job.id);
	at("older").hidden = !found.more;
	showJobs();
	found.finished.forEach(learn);
}

const loadJobs = async () => take(await get("jobs"));

at("older").addEventListener("click", async () => {
	try { take(await get("jobs", { before: String(Math.min(...jobs.keys())) })); } catch (error) { complain(error); }
});

on("job", (job) => {
	const isOver = !["queued", "running", "ending"].includes(job.state);
	jobs.set(job.id, job);
	if (isOver) {
		queue = queue.filter((number) => number !== job.id);
		learn(job);
		check();
	} else if (!queue.includes(job.id)) queue = [...queue, job.id];
	showJobs();
});
on("queue", () => loadJobs().catch(complain));

/** Start the build of a recipe, or show in the form why it can't be. */
async function buildRecipe(name) {
	try { await post("jobs", { action: "recipe", fields: { recipe: name } }); } catch (error) {
		complain(error);
		action = "recipe";
		typed.recipe.recipe = name;
		showActions();
		showForm();
	}
}

at("new-recipe").addEventListener("click", () => {
	const fields = fieldsOf("run");
	const { model, imatrix, budget, text } = fields;
	const data = { format: "raq-recipe-2", name: "new", model, imatrix, budget, text, output: { file: fields.output } };
	edit("new.recipe.toml", Object.fromEntries(Object.entries(data).filter(([, value]) => value?.length !== 0)), true);
});

async function refresh() {
	files = await get("folder");
	showRecipes(files, buildRecipe);
	if (!at("actions").children.length) showActions();
	if (!at("form").contains(document.activeElement)) showForm();
	else check();
}

on("folder", settled(() => refresh().catch(complain)));
Promise.all([refresh(), loadJobs()]).catch((error) => problem(error.message));
