// The page Compare: the quantized files of the folder, what was measured of them, and which is better.
// @ts-check
import { at, choose, complain, get, likest, make, offer, on, plusMinus, post, problem, settled, short, size } from "./common.js";
import { jobCard, outcome } from "./jobs.js";
let files = [];
let manifests = [];
/** @type {Set<string>} */
const marked = new Set();
/** @type {Map<string, any>} */
const audits = new Map();
const names = (kind) => files.filter((file) => file.kind === kind && !file.error).map((file) => file.file);
const HASHES = { same: "as built", differs: "changed since", missing: "missing", unknown: "being read…" };

/** Models with fewer bits than the original, smallest first; unreadable ones too. */
function candidates() {
	return files.filter((file) => (file.kind === "model" || file.kind === "unreadable") && file.file !== at("model").value)
		.sort((a, b) => (a.tensor_bytes ?? 0) - (b.tensor_bytes ?? 0));
}

const COLUMNS = ["", "file", "bpw", "size", "predicted", "KL ± SE", "same top", "over the best", "hash", "made"];

function showFiles() {
	const shown = candidates();
	at("none").hidden = shown.length > 0;
	at("files").hidden = !shown.length;
	at("files").replaceChildren(
		make("thead", {}, make("tr", {}, ...COLUMNS.map((name, column) => make(name ? "th" : "td", { scope: name ? "col" : null, class: column > 1 && column < 8 ? "figure" : "" }, name)))),
		make("tbody", {}, ...shown.map(line)));
	check();
}

function line(file) {
	if (file.error) return make("tr", {}, make("td", {}), make("td", { class: "name" }, file.file), make("td", { colspan: "8" }, make("span", { class: "badge differs" }, "unreadable"), ` ${file.error}`));
	const manifest = manifests.find((each) => each.file === file.file);
	const box = make("input", { type: "checkbox", "aria-label": `Choose ${file.file}`, onchange: () => { if (box.checked) marked.add(file.file); else marked.delete(file.file); check(); } });
	box.checked = marked.has(file.file);
	const card = manifest && manifest.hash !== "missing" ? make("button", { "aria-label": `Model card of ${file.file}`, onclick: () => openCard(manifest.manifest) }, "Card") : null;
	const hash = manifest ? make("span", { class: `badge ${manifest.hash}`, title: manifest.sha256 }, HASHES[/** @type {keyof typeof HASHES} */ (manifest.hash)]) : "no manifest";
	return make("tr", {},
		make("td", {}, box),
		make("td", { class: "name" }, file.file, make("div", { class: "note" }, file.name ?? "")),
		make("td", { class: "figure" }, file.bits_per_weight.toFixed(3)),
		make("td", { class: "figure" }, size(file.tensor_bytes)),
		make("td", { class: "figure" }, short(manifest?.predicted_loss)),
		make("td", { class: "figure" }, plusMinus(manifest?.kl)),
		make("td", { class: "figure" }, plusMinus(manifest?.top1_agreement)),
		make("td", { class: "figure" }, audit(file)),
		make("td", {}, hash, " ", card),
		make("td", {}, new Date(1000 * file.changed).toLocaleString()));
}

/** Its predicted loss over the best of its size: asked for by a button, as it takes a moment. */
function audit(file) {
	const profile = at("profile").value;
	const key = `${profile}\n${file.file}\n${file.changed}`;
	const found = audits.get(key);
	if (found) return found;
	if (!profile) return "–";
	const button = make("button", { "aria-label": `Audit ${file.file}`, onclick: async () => {
		button.disabled = true;
		try {
			const answer = await post("audit", { profile, file: file.file });
			audits.set(key, answer.excess == null ? "–" : `+${(100 * answer.excess).toFixed(1)} %`);
			showFiles();
		} catch (error) { complain(error); button.disabled = false; }
	} }, "Audit");
	return button;
}

// --- the model card, as it would be written

let carded = "";

function openCard(manifest) {
	carded = manifest;
	at("card-title").textContent = `Model card of ${manifest}`;
	at("card").showModal();
	if (at("card-base").value.trim()) showCard();
	else at("card-text").textContent = "Preview shows it; without a repository it is where the model was downloaded from.";
}

async function showCard() {
	at("card-text").textContent = "…";
	try {
		at("card-text").textContent = (await post("card", { manifest: carded, base_model: at("card-base").value.trim() })).text;
	} catch (error) { at("card-text").textContent = error.message; }
}

at("card-form").addEventListener("submit", (event) => { event.preventDefault(); showCard(); });
at("card-close").addEventListener("click", () => at("card").close());

const fields = () => ({
	candidates: candidates().map((file) => file.file).filter((name) => marked.has(name)),
	model: at("model").value,
	text: at("text").value ? [at("text").value] : [],
	windows: at("windows").value,
});

const check = settled(async () => {
	try {
		const { compare } = await post("preflight", { actions: { compare: fields() } });
		at("compare").disabled = compare.reasons.length > 0;
		at("why").textContent = compare.reasons[0] ?? compare.command;
	} catch (error) { at("why").textContent = error.message; at("compare").disabled = true; }
}, 100);

at("compare").addEventListener("click", async () => {
	at("compare").disabled = true;
	try { await post("jobs", { action: "compare", fields: fields() }); } catch (error) { complain(error); check(); }
});

// --- verdicts

/** @type {Map<number, any>} */
const jobs = new Map();
/** @type {Map<number, any>} */
const results = new Map();

async function take(job) {
	if (job.action !== "compare") return;
	jobs.set(job.id, job);
	if (job.state === "done" && !results.has(job.id)) {
		try { results.set(job.id, await get(`jobs/${job.id}/result`)); } catch (error) { complain(error); }
	}
	showVerdicts();
}

function showVerdicts() {
	const shown = [...jobs.values()].sort((a, b) => b.id - a.id);
	at("no-verdicts").hidden = shown.length > 0;
	at("verdicts").replaceChildren(...shown.map((job) => {
		const card = jobCard(job, { outcome: outcome(job, results.get(job.id)) });
		(results.get(job.id) ?? []).forEach((step) => card.append(verdict(step)));
		return card;
	}));
}

/** @param {any} step of `compare --json` */
function verdict(step) {
	const kind = step.verdict === "better" || step.verdict === "worse" ? step.verdict : "noise";
	const figures = (name, level) => make("tr", {}, make("td", { class: "name" }, name), make("td", { class: "figure" }, plusMinus(level.kl)), make("td", { class: "figure" }, plusMinus(level.top1_agreement)), make("td", { class: "figure" }, plusMinus(level.perplexity)));
	return make("div", { class: "verdict" },
		make("p", {}, make("strong", {}, step.second), " is ", make("span", { class: `badge ${kind}` }, step.verdict), ` than ${step.first}`),
		make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Figures of the comparison" }, make("table", {},
			make("thead", {}, make("tr", {}, ...["file", "KL ± SE", "same top", "perplexity"].map((name, column) => make("th", { scope: "col", class: column ? "figure" : "" }, name)))),
			make("tbody", {}, figures(step.first, step.levels.first), figures(step.second, step.levels.second)))));
}

async function refresh() {
	[files, manifests] = await Promise.all([get("folder"), get("manifests")]);
	const bits = (name) => files.find((file) => file.file === name)?.bits_per_weight ?? 0;
	const models = names("model").sort((a, b) => bits(b) - bits(a));
	const original = offer(at("model"), models, { key: "original" });
	offer(at("text"), names("text"), { key: "text", none: "none" });
	offer(at("profile"), names("profile"), { key: "profile", none: "none", fallback: likest(original, names("profile")) });
	problem(manifests.filter((each) => each.error).map((each) => each.error).join("\n"));
	showFiles();
}

for (const id of ["model", "text", "profile"]) at(id).addEventListener("change", () => { choose({ original: at("model").value, text: at("text").value }); showFiles(); });
at("windows").addEventListener("input", check);
on("job", (job) => take(job).catch(complain));
on("folder", settled(() => refresh().catch(complain)));
refresh().catch((error) => problem(error.message));
get("jobs").then((found) => Promise.all([...found.unfinished, ...found.finished].map(take))).catch(complain);
