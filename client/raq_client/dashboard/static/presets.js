// Budgets with a name, and what a device's memory leaves: exact bytes, predicted loss, memory at a context.
// @ts-check
import { at, make, post, short, size, whole } from "./common.js";

const NAMES = ["smallest", "recommended", "near lossless"];
const COLUMNS = ["", "bytes", "bits per weight", "predicted loss", "memory"];

/** Presets under the constraints of the page, each found by raq. */
export class Presets {
	/** @param {(preset: any) => void} onpick */
	constructor(onpick) {
		this.onpick = onpick;
		/** Bytes of a device besides those of the weights; null where raq can't compute them. @type {number|null} */
		this.besides = null;
		this.asked = 0;
		this.show([]);
	}

	/** @param {Record<string, any>} fields profile and constraints */
	async ask(fields) {
		const mine = ++this.asked;
		const running = { "vram-context": at("vram-context").value, kv: at("kv").value };
		at("presets-note").textContent = "";
		try {
			const found = await post("presets", { ...fields, ...running });
			if (mine !== this.asked) return;
			const known = found.find((each) => each.memory_bytes != null && each.bytes != null);
			this.besides = known ? known.memory_bytes - known.bytes : null;
			this.show(found);
			const [most] = found;
			at("presets-note").textContent = most.most_loss == null ? "by bits per weight: this profile's losses are not in nats"
				: `the smallest sizes with a predicted KL divergence of at most ${found.map((each) => each.most_loss).join(", ")} nats per token`;
		} catch (error) {
			if (mine !== this.asked) return;
			this.besides = null;
			this.show([]);
			at("presets-note").textContent = error.message;
		}
	}

	/** The memory of a device with weights of this size; null if unknown. @param {number} bytes */
	memory(bytes) {
		return this.besides == null ? null : bytes + this.besides;
	}

	/** @param {any[]} found */
	show(found) {
		const figure = (text) => make("td", { class: "figure" }, text);
		const rows = NAMES.map((name) => {
			const each = found.find((one) => one.preset === name);
			const title = name[0].toUpperCase() + name.slice(1);
			const button = make("button", { id: `preset-${name.replace(" ", "-")}`, disabled: each?.bytes == null, onclick: () => this.onpick(each) }, title);
			const figures = each?.bytes != null ? [whole(each.bytes), each.bits_per_weight.toFixed(3), short(each.loss), each.memory_bytes == null ? "–" : size(each.memory_bytes)]
				: each ? ["out of reach", "–", "–", "–"] : ["…", "…", "…", "…"];
			return make("tr", {}, make("td", {}, button), ...figures.map(figure));
		});
		at("presets").replaceChildren(
			make("thead", {}, make("tr", {}, ...COLUMNS.map((name) => make(name ? "th" : "td", { scope: name ? "col" : null, class: name ? "figure" : "" }, name)))),
			make("tbody", {}, ...rows));
	}
}
