// A plot on a canvas: a linear axis below, a logarithmic one at the left, lines, dots with error bars, names.
// @ts-check
import { make, short } from "./common.js";

const EDGE = { left: 62, right: 14, top: 12, bottom: 44 };
const HEIGHT = 320;

/**
 * @typedef {object} Series
 * @property {[number, number][]} points x and y; y is above 0
 * @property {string} colour
 * @property {number} [width] of the line; 0 for dots
 * @property {number[]} [dash]
 * @property {[number, number][]} [ranges] the low and high end of each point's error bar
 * @property {string[]} [names] of the points; those that would overlap are left out
 * @property {number} [below] pixels from a point down to its name
 */

/** Round numbers from low to high, about `most` of them. */
export function ticksOf(low, high, most) {
	const raw = (high - low) / most;
	const power = 10 ** Math.floor(Math.log10(raw));
	const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw) ?? raw;
	const found = [];
	for (let number = Math.ceil(low / step - 1e-9); number * step <= high * (1 + 1e-12); number++) found.push(number * step);
	return found;
}

/** Powers of ten from low to high; with few of them their doubles and fivefolds too. */
export function powersOf(low, high) {
	const decades = Math.log10(high / low);
	const steps = decades > 4 ? [1] : decades > 1.5 ? [1, 3] : [1, 2, 3, 5, 7];
	const found = [];
	for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
		found.push(...steps.map((each) => each * 10 ** power).filter((each) => each >= low && each <= high));
	}
	return found;
}

export class Plot {
	/**
	 * @param {HTMLElement} box
	 * @param {{x: string, y: string}} labels
	 * @param {(x: number) => void} onpick called with the place that was clicked
	 */
	constructor(box, labels, onpick) {
		this.box = box;
		this.labels = labels;
		/** @type {Series[]} */
		this.series = [];
		this.text = this.lines = "";
		this.canvas = make("canvas", {});
		this.mark = make("div", { class: "mark" });
		this.hair = make("div", { class: "mark hair", hidden: true });
		box.append(this.canvas, this.mark, this.hair);
		const place = (/** @type {MouseEvent} */ event) => event.clientX - box.getBoundingClientRect().left;
		const isWithin = (/** @type {number} */ x) => x >= EDGE.left && x <= this.width - EDGE.right;
		box.addEventListener("click", (event) => { if (isWithin(place(event))) onpick(this.valueAt(place(event))); });
		box.addEventListener("pointermove", (event) => { this.hair.hidden = !isWithin(place(event)); this.hair.style.transform = `translateX(${place(event)}px)`; });
		box.addEventListener("pointerleave", () => { this.hair.hidden = true; });
		new ResizeObserver(() => { if (box.clientWidth && box.clientWidth !== this.width) this.draw(); }).observe(box);
		this.low = 0;
		this.high = 1;
		this.bottom = 0.1;
		this.top = 1;
		this.width = 0;
		this.marked = NaN;
	}

	/**
	 * @param {Series[]} series
	 * @param {{text: string, lines: string}} colours
	 */
	show(series, colours) {
		this.series = series;
		[this.text, this.lines] = [colours.text, colours.lines];
		const all = series.flatMap((each) => each.points);
		const [xs, ys] = [all.map(([x]) => x), [...all.map(([, y]) => y), ...series.flatMap((each) => each.ranges ?? []).flat()]];
		const room = (Math.max(...xs) - Math.min(...xs)) * 0.02 || 0.5;
		[this.low, this.high] = [Math.min(...xs) - room, Math.max(...xs) + room];
		[this.bottom, this.top] = [Math.min(...ys) / 1.15, Math.max(...ys) * 1.15];
		this.draw();
	}

	x(value) {
		return EDGE.left + ((value - this.low) / (this.high - this.low)) * (this.width - EDGE.left - EDGE.right);
	}

	y(value) {
		return EDGE.top + (1 - Math.log(value / this.bottom) / Math.log(this.top / this.bottom)) * (HEIGHT - EDGE.top - EDGE.bottom);
	}

	valueAt(pixel) {
		return this.low + ((pixel - EDGE.left) / (this.width - EDGE.left - EDGE.right)) * (this.high - this.low);
	}

	/** Move the upright line; nothing is drawn again. */
	select(value) {
		this.marked = value;
		this.mark.style.transform = `translateX(${this.x(value) - 1}px)`;
	}

	draw() {
		if (!this.series.length) return;
		const [ratio, context] = [devicePixelRatio, this.canvas.getContext("2d")];
		this.width = this.box.clientWidth || 300;
		[this.canvas.width, this.canvas.height] = [Math.round(this.width * ratio), HEIGHT * ratio];
		context.scale(ratio, ratio);
		context.font = "11px system-ui, sans-serif";
		this.axes(context);
		for (const each of this.series) this.one(context, each);
		for (const each of this.series) this.names(context, each);
		if (!Number.isNaN(this.marked)) this.select(this.marked);
	}

	axes(/** @type {CanvasRenderingContext2D} */ context) {
		const [right, floor] = [this.width - EDGE.right, HEIGHT - EDGE.bottom];
		context.strokeStyle = this.lines;
		context.fillStyle = this.text;
		context.lineWidth = 1;
		context.beginPath();
		context.textAlign = "center";
		for (const tick of ticksOf(this.low, this.high, Math.max(2, Math.floor(this.width / 70)))) {
			const x = Math.round(this.x(tick)) + 0.5;
			context.moveTo(x, EDGE.top);
			context.lineTo(x, floor + 4);
			context.fillText(String(Number(tick.toPrecision(6))), x, floor + 16);
		}
		context.textAlign = "right";
		for (const tick of powersOf(this.bottom, this.top)) {
			const y = Math.round(this.y(tick)) + 0.5;
			context.moveTo(EDGE.left - 4, y);
			context.lineTo(right, y);
			context.fillText(short(tick, 1), EDGE.left - 7, y + 3.5);
		}
		context.stroke();
		context.textAlign = "center";
		context.fillText(this.labels.x, (EDGE.left + right) / 2, HEIGHT - 8);
		context.save();
		context.translate(12, (EDGE.top + floor) / 2);
		context.rotate(-Math.PI / 2);
		context.fillText(this.labels.y, 0, 0);
		context.restore();
	}

	/** @param {CanvasRenderingContext2D} context @param {Series} series */
	one(context, { points, colour, width = 0, dash = [], ranges = [] }) {
		context.strokeStyle = context.fillStyle = colour;
		context.beginPath();
		if (width) {
			context.lineWidth = width;
			context.setLineDash(dash);
			for (const [x, y] of points) context.lineTo(this.x(x), this.y(y));
			context.stroke();
			context.setLineDash([]);
			return;
		}
		context.lineWidth = 1.5;
		ranges.forEach(([low, high], place) => {
			const x = this.x(points[place][0]);
			context.moveTo(x, this.y(low));
			context.lineTo(x, this.y(high));
			for (const y of [this.y(low), this.y(high)]) { context.moveTo(x - 5, y); context.lineTo(x + 5, y); }
		});
		context.stroke();
		for (const [x, y] of points) {
			context.beginPath();
			context.arc(this.x(x), this.y(y), 4, 0, 2 * Math.PI);
			context.fill();
		}
	}

	/** @param {CanvasRenderingContext2D} context @param {Series} series */
	names(context, { points, names = [], below = -6 }) {
		context.fillStyle = this.text;
		let end = -Infinity;
		names.forEach((name, place) => {
			const x = this.x(points[place][0]);
			if (x < end) return;
			const wide = context.measureText(name).width;
			const isAtEdge = x + 7 + wide > this.width;
			context.textAlign = isAtEdge ? "right" : "left";
			context.fillText(name, isAtEdge ? x - 7 : x + 7, this.y(points[place][1]) + below);
			end = x + wide + 12;
		});
	}
}
