// The frontier as a plot: predicted optimum, llama.cpp's mixtures, measured files with their errors.
// @ts-check
import { make } from "./common.js";
import { Plot } from "./plot.js";

const css = (name) => {
	const probe = make("i", {});
	probe.style.color = `var(${name})`;
	document.body.append(probe);
	const found = getComputedStyle(probe).color;
	probe.remove();
	return found;
};

/** @typedef {import("./points.js").Point} Point */

/** Half the width of a 95 % interval, in standard errors. */
const NORMAL = 1.96;

export class FrontierChart {
	/** @param {(index: number) => void} onpick */
	constructor(box, onpick) {
		this.plot = new Plot(box, { x: "bits per weight", y: "loss" }, (bits) => {
			const far = (this.frontier?.points ?? []).map((point) => Math.abs(point.bits_per_weight - bits));
			onpick(far.indexOf(Math.min(...far)));
		});
		/** @type {import("./frontier.js").Frontier|null} */
		this.frontier = null;
		/** @type {import("./frontier.js").Frontier|null} */
		this.free = null;
		/** @type {Point[]} */
		this.measured = [];
		/** @type {Point[]} */
		this.audited = [];
		/** @type {Record<string, string>} */
		this.colours = {};
		matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (this.frontier) this.show(this.frontier, this.free, this.measured, this.audited); });
	}

	/**
	 * @param {import("./frontier.js").Frontier} frontier
	 * @param {import("./frontier.js").Frontier|null} free the frontier without what is held by hand
	 * @param {Point[]} measured
	 * @param {Point[]} audited */
	show(frontier, free, measured, audited) {
		[this.frontier, this.free, this.measured, this.audited] = [frontier, free, measured, audited];
		const colours = this.colours = { optimum: css("--accent"), free: css("--soft"), mixture: css("--warm"), measured: css("--good"), audited: css("--kind") };
		const line = (/** @type {any} */ of) => of.points.filter((point) => point.loss > 0).map((point) => [point.bits_per_weight, point.loss]);
		const optimum = line(frontier);
		const last = optimum.at(-1)?.[0] ?? 9;
		const marks = frontier.landmarks.map((mark) => ({ name: mark.name, bits: (8 * mark.size) / frontier.total, value: mark.loss, error: null }));
		const dots = (/** @type {Point[]} */ all, /** @type {string} */ colour) => {
			const shown = all.filter((each) => each.value > 0 && each.bits <= last).sort((a, b) => a.bits - b.bits);
			return { shown, points: /** @type {[number, number][]} */ (shown.map((each) => [each.bits, each.value])), colour };
		};
		const [mixtures, files, tests] = [dots(marks, colours.mixture), dots(audited, colours.audited), dots(measured, colours.measured)];
		const brief = (/** @type {string} */ name) => (name.length > 22 ? `…${name.slice(-21)}` : name);
		this.plot.show([
			{ points: optimum, colour: colours.optimum, width: 2 },
			...(free ? [{ points: line(free), colour: colours.free, width: 1, dash: [5, 4] }] : []),
			{ ...mixtures, names: mixtures.shown.map((each) => each.name) },
			{ ...files, names: files.shown.map((each) => brief(each.name.replace(/\.gguf$/, ""))), below: 14 },
			{ ...tests, ranges: tests.shown.map(({ value, error }) => [Math.max(value - NORMAL * (error ?? 0), value / 10), value + NORMAL * (error ?? 0)]) },
		], { text: css("--soft"), lines: css("--line") });
	}

	/** What the colours mean. @returns {any[]} */
	legend() {
		const rows = [["optimum", "proven optimum, predicted"], ...(this.free ? [["free", "without what you hold"]] : []), ["mixture", "llama.cpp's mixtures, predicted"], ...(this.audited.length ? [["audited", "files here, predicted"]] : []), ...(this.measured.length ? [["measured", "files here, measured, with 95 % intervals"]] : [])];
		return rows.map(([key, text]) => {
			const patch = make("i", { "aria-hidden": "true" });
			patch.style.background = this.colours[key];
			return make("li", {}, patch, text);
		});
	}

	/** Show where the slider is. */
	select(index) {
		const point = this.frontier?.points[index];
		if (point) this.plot.select(point.bits_per_weight);
	}
}
