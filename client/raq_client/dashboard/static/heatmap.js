// A heat map on a canvas: rows by columns, with a cursor for keyboard and pointer, and a scale.
// @ts-check
import { make, short } from "./common.js";

/**
 * @typedef {object} Cell
 * @property {number|string|null} value the figure; text is a category; null: nothing is known
 * @property {string} title what is said of it: a getter where making it takes long
 *
 * @typedef {object} HeatData
 * @property {string[]} rows
 * @property {string[]} columns
 * @property {(row: number, column: number) => Cell|null} cell null: there is no such tensor
 * @property {"sequence"|"signed"|"types"} scale
 * @property {boolean} [log]
 * @property {string} [unit]
 * @property {(row: number, column: number) => boolean} [isMarked]
 */

const LABEL = 44;
const HEAD = 76;
/** Room right of the last column, for its slanted label. */
const TAIL = 40;

const colour = (name) => {
	const probe = make("i", {});
	probe.style.color = `var(${name})`;
	document.body.append(probe);
	const parts = (getComputedStyle(probe).color.match(/[\d.]+/g) ?? []).map(Number);
	probe.remove();
	return parts;
};

const between = (low, high, share) => `rgb(${[0, 1, 2].map((i) => Math.round(low[i] + (high[i] - low[i]) * share)).join(" ")})`;

/** The colour of a quant type: by its bits per weight, so that neighbours look alike. */
export function typeColour(type) {
	let found = typeColours.get(type);
	if (!found) typeColours.set(type, (found = colourOf(type)));
	return found;
}

/** @type {Map<string, string>} */
const typeColours = new Map();

function colourOf(type) {
	const bits = typeBits(type);
	const share = Math.min(1, Math.max(0, (Math.log2(bits) - Math.log2(1.5)) / (Math.log2(16) - Math.log2(1.5))));
	return `hsl(${Math.round(265 - 245 * share)} 60% ${type.startsWith("IQ") ? 58 : 70}%)`;
}

/** Bits of a type by its name, for order and colour only: sizes come from the table. */
export function typeBits(type) {
	if (type === "BF16") return 16;
	const digits = /\d+/.exec(type);
	return digits ? Number(digits[0]) + (type.endsWith("_XXS") ? 0.06 : type.endsWith("_XS") ? 0.3 : 0.5) : 16;
}

export class HeatMap {
	constructor(box, label, onpick) {
		this.onpick = onpick;
		this.rest = "Point at a cell, or move with the arrow keys.";
		this.canvas = make("canvas", { tabindex: "0", role: "application", "aria-label": label, "aria-describedby": `${box.id}-reading` });
		this.reading = make("p", { class: "reading", id: `${box.id}-reading`, role: "status" }, this.rest);
		this.scaleBox = make("div", { class: "scale" });
		box.replaceChildren(make("div", { class: "canvas-box" }, this.canvas), this.scaleBox, this.reading);
		/** @type {HeatData|null} */
		this.data = null;
		/** @type {[number, number]|null} */
		this.cursor = null;
		this.span = { least: 0, most: 1 };
		this.cellWidth = this.cellHeight = 20;
		this.frame = 0;
		/** The types that the scale shows. */
		this.scaleOf = "";
		this.canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.point(event));
		this.canvas.addEventListener("pointerleave", () => this.move(null));
		this.canvas.addEventListener("click", (/** @type {PointerEvent} */ event) => { this.point(event); this.pick(); });
		this.canvas.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.key(event));
		new ResizeObserver(() => this.draw()).observe(box);
		matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.colours = null; this.draw(); });
		/** @type {Record<string, number[]>|null} */
		this.colours = null;
	}

	/** @param {HeatData} data */
	show(data) {
		const isOther = !this.data || this.data.rows.length !== data.rows.length || this.data.columns.length !== data.columns.length;
		this.data = data;
		if (isOther) this.cursor = null;
		this.span = this.spanOf(data);
		this.draw();
		this.drawScale();
		this.read();
	}

	/** Smallest and largest figure: of those above zero where the scale is logarithmic. @param {HeatData} data */
	spanOf(data) {
		if (data.scale === "types") return { least: 0, most: 1 };
		let [least, most] = [Infinity, -Infinity];
		for (let row = 0; row < data.rows.length; row++) {
			for (let column = 0; column < data.columns.length; column++) {
				const value = data.cell(row, column)?.value;
				if (typeof value !== "number" || (data.log && value <= 0)) continue;
				least = Math.min(least, value);
				most = Math.max(most, value);
			}
		}
		if (data.scale === "signed") { most = Math.max(Math.abs(least), Math.abs(most)); least = -most; }
		return { least, most };
	}

	share(value) {
		const { least, most } = this.span;
		if (!(most > least)) return 1;
		if (!this.data?.log) return (value - least) / (most - least);
		return value <= 0 ? 0 : Math.log(value / least) / Math.log(most / least);
	}

	palette() {
		this.colours ??= Object.fromEntries(["--low", "--high", "--cold", "--warm", "--middle", "--soft", "--line", "--text"].map((name) => [name, colour(name)]));
		return this.colours;
	}

	/** @param {number|string} value */
	fill(value) {
		if (typeof value === "string") return typeColour(value);
		const colours = this.palette();
		if (this.data?.scale === "signed") {
			const share = this.share(value) * 2 - 1;
			return between(colours["--middle"], share < 0 ? colours["--cold"] : colours["--warm"], Math.min(1, Math.abs(share)));
		}
		return between(colours["--low"], colours["--high"], Math.min(1, Math.max(0, this.share(value))));
	}

	draw() {
		cancelAnimationFrame(this.frame);
		this.frame = requestAnimationFrame(() => this.paint());
	}

	paint() {
		if (!this.data) return;
		const { rows, columns } = this.data;
		const room = /** @type {HTMLElement} */ (this.canvas.parentElement).clientWidth;
		this.cellWidth = Math.max(columns.length > 40 ? 3 : 20, Math.min(64, Math.floor((room - LABEL - TAIL) / columns.length)));
		this.cellHeight = Math.max(9, Math.min(24, Math.floor(720 / rows.length)));
		const width = LABEL + this.cellWidth * columns.length + TAIL;
		const height = HEAD + this.cellHeight * rows.length + 1;
		const ratio = window.devicePixelRatio || 1;
		if (this.canvas.width !== width * ratio || this.canvas.height !== height * ratio) {
			this.canvas.width = width * ratio;
			this.canvas.height = height * ratio;
			this.canvas.style.width = `${width}px`;
			this.canvas.style.height = `${height}px`;
		}
		const brush = this.canvas.getContext("2d");
		brush.setTransform(ratio, 0, 0, ratio, 0, 0);
		brush.clearRect(0, 0, width, height);
		this.labels(brush);
		const gap = this.cellWidth > 8 ? 1 : 0;
		for (let row = 0; row < rows.length; row++) {
			for (let column = 0; column < columns.length; column++) {
				const cell = this.data.cell(row, column);
				if (!cell) continue;
				const [x, y] = [LABEL + column * this.cellWidth, HEAD + row * this.cellHeight];
				if (cell.value == null) this.hatch(brush, x, y, gap);
				else {
					brush.fillStyle = this.fill(cell.value);
					brush.fillRect(x, y, this.cellWidth - gap, this.cellHeight - gap);
					if (typeof cell.value === "string" && this.cellWidth >= 40 && this.cellHeight >= 14) this.write(brush, cell.value, x, y);
				}
				if (this.data.isMarked?.(row, column)) this.mark(brush, x, y);
			}
		}
		if (this.cursor) this.outline(brush);
	}

	/** @param {CanvasRenderingContext2D} brush */
	labels(brush) {
		const { rows, columns } = /** @type {HeatData} */ (this.data);
		const soft = this.palette()["--soft"];
		brush.fillStyle = `rgb(${soft.slice(0, 3).join(" ")})`;
		brush.font = "11px system-ui, sans-serif";
		brush.textBaseline = "middle";
		brush.textAlign = "right";
		const step = Math.ceil(12 / this.cellHeight);
		rows.forEach((name, row) => {
			if (row % step === 0) brush.fillText(name, LABEL - 6, HEAD + (row + 0.5) * this.cellHeight);
		});
		brush.textAlign = "left";
		const columnStep = Math.ceil(14 / this.cellWidth);
		columns.forEach((name, column) => {
			if (column % columnStep) return;
			brush.save();
			brush.translate(LABEL + (column + 0.5) * this.cellWidth, HEAD - 6);
			brush.rotate(-Math.PI / 4);
			brush.fillText(name.length > 15 ? `${name.slice(0, 14)}…` : name, 0, 0);
			brush.restore();
		});
	}

	write(/** @type {CanvasRenderingContext2D} */ brush, text, x, y) {
		brush.fillStyle = "#000";
		brush.font = "10px system-ui, sans-serif";
		brush.textAlign = "center";
		brush.textBaseline = "middle";
		brush.fillText(text, x + this.cellWidth / 2, y + this.cellHeight / 2, this.cellWidth - 4);
	}

	hatch(/** @type {CanvasRenderingContext2D} */ brush, x, y, gap) {
		brush.strokeStyle = `rgb(${this.palette()["--soft"].slice(0, 3).join(" ")} / 60%)`;
		brush.lineWidth = 1;
		brush.beginPath();
		brush.moveTo(x + 1, y + this.cellHeight - gap - 1);
		brush.lineTo(x + this.cellWidth - gap - 1, y + 1);
		brush.stroke();
	}

	mark(/** @type {CanvasRenderingContext2D} */ brush, x, y) {
		brush.fillStyle = "#fff";
		brush.strokeStyle = "#000";
		brush.beginPath();
		brush.arc(x + this.cellWidth / 2, y + this.cellHeight / 2, Math.min(3.5, this.cellHeight / 3), 0, 7);
		brush.fill();
		brush.stroke();
	}

	outline(/** @type {CanvasRenderingContext2D} */ brush) {
		const [row, column] = /** @type {[number, number]} */ (this.cursor);
		brush.strokeStyle = `rgb(${this.palette()["--text"].slice(0, 3).join(" ")})`;
		brush.lineWidth = 2;
		brush.strokeRect(LABEL + column * this.cellWidth, HEAD + row * this.cellHeight, this.cellWidth - 1, this.cellHeight - 1);
	}

	drawScale() {
		const data = /** @type {HeatData} */ (this.data);
		const { least, most } = this.span;
		if (data.scale === "types") {
			const seen = new Set();
			data.rows.forEach((_, row) => data.columns.forEach((__, column) => {
				const value = data.cell(row, column)?.value;
				if (typeof value === "string") seen.add(value);
			}));
			const names = [...seen].sort((a, b) => typeBits(a) - typeBits(b));
			if (this.scaleOf === names.join()) return;
			this.scaleOf = names.join();
			this.scaleBox.replaceChildren(...names.map((name) => {
				const patch = make("i", {});
				patch.style.background = typeColour(name);
				return make("span", {}, patch, name);
			}));
			return;
		}
		this.scaleOf = "";
		const strip = make("canvas", { width: 144, height: 11, "aria-hidden": "true" });
		const brush = strip.getContext("2d");
		const parts = data.scale === "signed" ? ["--cold", "--middle", "--warm"] : ["--low", "--high"];
		const gradient = brush.createLinearGradient(0, 0, 144, 0);
		parts.forEach((name, index) => gradient.addColorStop(index / (parts.length - 1), `rgb(${this.palette()[name].slice(0, 3).join(" ")})`));
		brush.fillStyle = gradient;
		brush.fillRect(0, 0, 144, 11);
		const known = Number.isFinite(least);
		this.scaleBox.replaceChildren(
			...(known ? [short(least), strip, `${short(most)} ${data.unit ?? ""}${data.log ? ", logarithmic" : ""}`] : []),
			make("span", {}, "╱ no data"),
		);
	}

	/** @param {PointerEvent} event */
	point(event) {
		if (!this.data) return;
		const column = Math.floor((event.offsetX - LABEL) / this.cellWidth);
		const row = Math.floor((event.offsetY - HEAD) / this.cellHeight);
		const isInside = row >= 0 && column >= 0 && row < this.data.rows.length && column < this.data.columns.length;
		this.move(isInside && this.data.cell(row, column) ? [row, column] : null);
	}

	/** @param {[number, number]|null} to */
	move(to) {
		if (String(to) === String(this.cursor)) return;
		this.cursor = to;
		this.canvas.style.cursor = to && this.onpick ? "pointer" : "default";
		this.draw();
		this.read();
	}

	read() {
		const cell = this.cursor && this.data?.cell(...this.cursor);
		this.reading.textContent = cell ? cell.title : this.rest;
	}

	pick() {
		if (this.cursor && this.onpick) this.onpick(...this.cursor);
	}

	/** @param {KeyboardEvent} event */
	key(event) {
		/** @type {Record<string, number[]>} */
		const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
		const step = steps[event.key];
		if (!this.data || (!step && event.key !== "Enter" && event.key !== " ")) return;
		event.preventDefault();
		if (!step) { this.pick(); return; }
		let [row, column] = this.cursor ?? [step[0] < 0 ? this.data.rows.length : -1 * Math.abs(step[0]), step[1] < 0 ? this.data.columns.length : -1 * Math.abs(step[1])];
		do {
			row += step[0];
			column += step[1];
			if (row < 0 || column < 0 || row >= this.data.rows.length || column >= this.data.columns.length) return;
		} while (!this.data.cell(row, column));
		this.move([row, column]);
	}
}
