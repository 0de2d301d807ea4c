// The frontier as a plot: predicted optimum, llama.cpp's mixtures, measured files with their errors.
// @ts-check
import { make, short } from "./common.js";
const uPlot = /** @type {any} */ (globalThis).uPlot;
const HEIGHT = 320;

const css = (name) => {
	const probe = make("i", {});
	probe.style.color = `var(${name})`;
	document.body.append(probe);
	const found = getComputedStyle(probe).color;
	probe.remove();
	return found;
};

/** @typedef {import("./points.js").Point} Point */

export class FrontierChart {
	/** @param {(index: number) => void} onpick */
	constructor(box, onpick) {
		this.box = box;
		this.onpick = onpick;
		this.index = 0;
		this.plot = null;
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
		this.line = make("div", {});
		this.line.style.cssText = "position:absolute;top:0;bottom:0;width:2px;pointer-events:none;background:var(--accent)";
		new ResizeObserver(() => {
			if (this.plot && box.clientWidth && box.clientWidth !== this.plot.width) {
				this.plot.setSize({ width: box.clientWidth, height: HEIGHT });
			}
		}).observe(box);
		matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (this.frontier) this.show(this.frontier, this.free, this.measured, this.audited); });
	}

	/**
	 * @param {import("./frontier.js").Frontier} frontier
	 * @param {import("./frontier.js").Frontier|null} free the frontier without what is held by hand
	 * @param {Point[]} measured
	 * @param {Point[]} audited */
	show(frontier, free, measured, audited) {
		[this.frontier, this.free, this.measured, this.audited] = [frontier, free, measured, audited];
		this.plot?.destroy();
		this.colours = { optimum: css("--accent"), free: css("--soft"), mixture: css("--warm"), measured: css("--good"), audited: css("--kind"), text: css("--soft"), line: css("--line") };
		const bits = (bytes) => (8 * bytes) / frontier.total;
		const points = frontier.points.filter((point) => point.loss > 0);
		const last = points.at(-1)?.bits_per_weight ?? 9;
		const marks = frontier.landmarks.filter((mark) => mark.loss > 0 && bits(mark.size) <= last).sort((a, b) => a.size - b.size);
		const byBits = (/** @type {Point[]} */ all) => all.filter((each) => each.bits <= last).sort((a, b) => a.bits - b.bits);
		const [files, predicted] = [byBits(measured), byBits(audited)];
		const freePoints = (free?.points ?? []).filter((point) => point.loss > 0);
		const tables = [
			[points.map((each) => each.bits_per_weight), points.map((each) => each.loss)],
			[freePoints.map((each) => each.bits_per_weight), freePoints.map((each) => each.loss)],
			[marks.map((each) => bits(each.size)), marks.map((each) => each.loss)],
			[files.map((each) => each.bits), files.map((each) => each.value)],
			[predicted.map((each) => each.bits), predicted.map((each) => each.value)],
		];
		this.plot = new uPlot(this.options(marks, files, predicted), uPlot.join(tables), this.box);
		this.plot.over.append(this.line);
		this.plot.over.addEventListener("click", () => this.pick());
	}

	options(marks, files, predicted) {
		const colours = this.colours;
		const axis = { stroke: colours.text, grid: { stroke: colours.line, width: 1 }, ticks: { stroke: colours.line, width: 1 } };
		const dots = (colour) => ({ paths: () => null, points: { show: true, size: 8, fill: colour, stroke: colour }, stroke: colour });
		return {
			width: this.box.clientWidth || 300,
			height: HEIGHT,
			legend: { show: false },
			cursor: { drag: { x: false, y: false }, y: false, points: { show: false } },
			scales: { x: { time: false }, y: { distr: 3 } },
			axes: [
				{ ...axis, label: "bits per weight", labelSize: 22, size: 38 },
				{ ...axis, label: "loss", labelSize: 18, size: 58, values: (_, /** @type {number[]} */ ticks) => ticks.map((tick) => (tick == null ? "" : short(tick, 1))) },
			],
			series: [
				{},
				{ stroke: colours.optimum, width: 2, spanGaps: true, points: { show: false } },
				{ stroke: colours.free, width: 1, dash: [5, 4], spanGaps: true, points: { show: false } },
				dots(colours.mixture),
				dots(colours.measured),
				dots(colours.audited),
			],
			hooks: { draw: [(plot) => { this.label(plot, marks, files, predicted); this.select(this.index); }] },
		};
	}

	/** Names of mixtures and files, error bars of what was measured. */
	label(plot, marks, files, predicted) {
		const { ctx } = plot;
		const colours = this.colours;
		ctx.save();
		ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
		ctx.fillStyle = colours.text;
		ctx.textAlign = "left";
		let lastX = -Infinity;
		for (const mark of marks) {
			const x = plot.valToPos((8 * mark.size) / /** @type {any} */ (this.frontier).total, "x", true);
			if (x - lastX < 62 * devicePixelRatio) continue;
			lastX = x;
			ctx.fillText(mark.name, x + 7 * devicePixelRatio, plot.valToPos(mark.loss, "y", true) - 6 * devicePixelRatio);
		}
		lastX = -Infinity;
		for (const file of predicted) {
			const x = plot.valToPos(file.bits, "x", true);
			if (x - lastX < 110 * devicePixelRatio) continue;
			lastX = x;
			const name = file.name.replace(/\.gguf$/, "");
			ctx.fillText(name.length > 22 ? `…${name.slice(-21)}` : name, x + 7 * devicePixelRatio, plot.valToPos(file.value, "y", true) + 14 * devicePixelRatio);
		}
		ctx.strokeStyle = colours.measured;
		ctx.lineWidth = 2 * devicePixelRatio;
		for (const file of files) {
			const x = plot.valToPos(file.bits, "x", true);
			const [low, high] = [Math.max(file.value - 1.96 * file.error, file.value / 10), file.value + 1.96 * file.error];
			ctx.beginPath();
			ctx.moveTo(x, plot.valToPos(low, "y", true));
			ctx.lineTo(x, plot.valToPos(high, "y", true));
			for (const end of [low, high]) {
				ctx.moveTo(x - 4 * devicePixelRatio, plot.valToPos(end, "y", true));
				ctx.lineTo(x + 4 * devicePixelRatio, plot.valToPos(end, "y", true));
			}
			ctx.stroke();
		}
		ctx.restore();
	}

	/** What the colours mean. @returns {any[]} */
	legend() {
		const colours = this.colours;
		const rows = [["optimum", "proven optimum, predicted"], ...(this.free ? [["free", "without what you hold"]] : []), ["mixture", "llama.cpp's mixtures, predicted"], ...(this.audited.length ? [["audited", "files here, predicted"]] : []), ...(this.measured.length ? [["measured", "files here, measured, with 95 % intervals"]] : [])];
		return rows.map(([key, text]) => {
			const patch = make("i", { "aria-hidden": "true" });
			patch.style.background = colours[key];
			return make("li", {}, patch, text);
		});
	}

	/** Show where the slider is: only a line is moved, nothing is drawn again. */
	select(index) {
		this.index = index;
		const point = this.frontier?.points[index];
		if (point && this.plot) this.line.style.transform = `translateX(${this.plot.valToPos(point.bits_per_weight, "x") - 1}px)`;
	}

	pick() {
		const bits = this.plot.posToVal(this.plot.cursor.left, "x");
		const far = (this.frontier?.points ?? []).map((point) => Math.abs(point.bits_per_weight - bits));
		this.onpick(far.indexOf(Math.min(...far)));
	}
}
