// Files of the folder on the frontier: audited ones by their predicted loss, measured ones with their error.
// @ts-check
import { at, complain, make, plusMinus, post, short } from "./common.js";

const COLUMNS = ["file", "bits per weight", "predicted loss", "over the best", "KL ± SE, measured"];

/** @typedef {{name: string, bits: number, value: number, error: number|null}} Point */

export class Files {
	/** @param {() => void} onchange called when there are new points */
	constructor(onchange) {
		this.onchange = onchange;
		/** What audits found, by profile, name and time of change. @type {Map<string, any>} */
		this.audits = new Map();
		/** @type {any[]} */
		this.files = [];
		/** @type {any[]} */
		this.manifests = [];
		this.profile = "";
		at("audit-all").addEventListener("click", () => this.auditAll().catch(complain));
	}

	/**
	 * @param {any[]} files those of the folder
	 * @param {any[]} manifests
	 * @param {{profile: string, original: string, weights: number}} of what they must be made from
	 */
	take(files, manifests, { profile, original, weights }) {
		this.profile = profile;
		this.manifests = manifests;
		this.files = files.filter((file) => file.kind === "model" && !file.error && file.file !== original && file.weights === weights)
			.sort((a, b) => a.bits_per_weight - b.bits_per_weight);
		this.show();
	}

	key(file) {
		return `${this.profile}\n${file.file}\n${file.changed}`;
	}

	manifest(file) {
		return this.manifests.find((each) => each.file === file.file && each.hash !== "missing" && each.hash !== "differs");
	}

	/** @returns {Point[]} */
	audited() {
		return this.files.flatMap((file) => {
			const found = this.audits.get(this.key(file));
			return found?.loss > 0 ? [{ name: file.file, bits: file.bits_per_weight, value: found.loss, error: null }] : [];
		});
	}

	/** @returns {Point[]} */
	measured() {
		return this.files.flatMap((file) => {
			const kl = this.manifest(file)?.kl;
			return kl?.value > 0 ? [{ name: file.file, bits: file.bits_per_weight, value: kl.value, error: kl.window_error ?? 0 }] : [];
		});
	}

	async auditAll() {
		at("audit-all").disabled = true;
		try {
			for (const file of this.files.filter((each) => !this.audits.has(this.key(each)))) await this.audit(file);
		} finally { at("audit-all").disabled = false; }
	}

	async audit(file) {
		const key = this.key(file);
		try {
			this.audits.set(key, await post("audit", { profile: this.profile, file: file.file }));
		} catch (error) {
			this.audits.set(key, { error: error.message });
		}
		this.show();
		this.onchange();
	}

	show() {
		at("no-files").hidden = this.files.length > 0;
		at("audit-all").hidden = at("file-points").hidden = !this.files.length;
		const figure = (text) => make("td", { class: "figure" }, text);
		const row = (file) => {
			const found = this.audits.get(this.key(file));
			const audit = make("button", { "aria-label": `Audit ${file.file}`, onclick: () => this.audit(file) }, "Audit");
			const over = found?.excess == null ? "–" : `+${(100 * found.excess).toFixed(1)} %`;
			const cells = !found ? [make("td", { class: "figure", colspan: 2 }, audit)] : found.error ? [make("td", { colspan: 2 }, found.error)] : [figure(short(found.loss)), figure(over)];
			return make("tr", {}, make("td", { class: "name" }, file.file), figure(file.bits_per_weight.toFixed(3)), ...cells, figure(plusMinus(this.manifest(file)?.kl)));
		};
		at("file-points").replaceChildren(
			make("thead", {}, make("tr", {}, ...COLUMNS.map((name, column) => make("th", { scope: "col", class: column ? "figure" : "" }, name)))),
			make("tbody", {}, ...this.files.map(row)));
	}
}
