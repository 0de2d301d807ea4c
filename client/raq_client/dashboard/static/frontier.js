// The frontier as arrays: every point's allocation and figures, without asking the server again.
// @ts-check
import { typeBits } from "./heatmap.js";

const BLOCK = /^blk\.(\d+)\.(.*)$/;

/**
 * Block and role of a tensor's name; block -1 outside of blocks.
 * @returns {{block: number, role: string}}
 */
export function parts(name) {
	const found = BLOCK.exec(name);
	const role = (found ? found[2] : name).replace(/\.(weight|bias)$/, (_, kind) => (kind === "bias" ? ".bias" : ""));
	return { block: found ? Number(found[1]) : -1, role };
}

/** Tensors as rows (blocks) and columns (roles). */
export function grid(names) {
	const places = names.map(parts);
	const blocks = [...new Set(places.map((each) => each.block))].sort((a, b) => a - b);
	const inBlocks = [...new Set(places.filter((each) => each.block >= 0).map((each) => each.role))];
	const columns = [...inBlocks, ...new Set(places.filter((each) => each.block < 0).map((each) => each.role).filter((role) => !inBlocks.includes(role)))];
	/** @type {Map<string, number>} */
	const index = new Map(places.map((each, number) => [`${each.block} ${each.role}`, number]));
	const cells = blocks.map((block) => columns.map((role) => index.get(`${block} ${role}`)));
	return {
		rows: blocks.map((block) => (block < 0 ? "–" : String(block))),
		columns,
		/** The number of the tensor in a cell, or undefined. */
		tensor: (row, column) => cells[row][column],
	};
}

/**
 * @typedef {{capacity_bytes: number, bytes: number, bits_per_weight: number, loss: number, bound: number, gap: number, lambda: number, termination: string, changes: string[]}} Point
 * @typedef {{name: string, size: number, loss: number}} Landmark
 */

export class Frontier {
	/** @param {any} answer of `sweep --with-table --json` */
	constructor(answer) {
		/** @type {string} */
		this.source = answer.loss_source;
		/** @type {string} */
		this.unit = answer.loss_unit;
		/** @type {string[]} */
		this.tensors = answer.table.tensors;
		/** @type {string[]} */
		this.types = answer.table.quant_types;
		/** Null where the type is not offered, as with losses. @type {number[][]} */
		this.bytes = answer.table.bytes;
		/** @type {number[][]} */
		this.losses = answer.table.losses;
		/** @type {number[]} */
		this.weights = answer.table.weights;
		this.total = this.weights.reduce((sum, each) => sum + each, 0);
		/** @type {Landmark[]} */
		this.landmarks = answer.landmarks;
		/** @type {Point[]} */
		this.points = answer.points.filter((point) => point.bytes != null);
		this.knee = this.points.findIndex((point) => point.capacity_bytes === answer.knee_capacity_bytes);
		this.row = new Map(this.tensors.map((name, index) => [name, index]));
		this.column = new Map(this.types.map((name, index) => [name, index]));
		this.allocations = this.unrolled(answer.first);
	}

	/** The type of every tensor at every point, from the first point's and the changes. @param {Record<string, string>} first */
	unrolled(first) {
		if (!this.points.length) return [];
		let current = Uint8Array.from(this.tensors, (name) => this.at(first[name]));
		return this.points.map((point) => {
			current = current.slice();
			for (const change of point.changes) {
				const [, tensor, after] = /** @type {RegExpExecArray} */ (/^(.*): \S+ -> (\S+)$/.exec(change));
				current[/** @type {number} */ (this.row.get(tensor))] = this.at(after);
			}
			return current;
		});
	}

	/**
	 * Take in the plan of a further budget, as `solve --json` prints it.
	 * @param {any} plan
	 * @returns {number} its number among the points
	 */
	insert(plan) {
		const there = this.points.findIndex((point) => point.capacity_bytes === plan.capacity_bytes);
		if (there >= 0) return there;
		const place = this.points.filter((point) => point.capacity_bytes < plan.capacity_bytes).length;
		this.points.splice(place, 0, { ...plan, changes: [] });
		this.allocations.splice(place, 0, Uint8Array.from(this.tensors, (name) => this.at(plan.allocation[name])));
		if (place <= this.knee) this.knee += 1;
		return place;
	}

	/** The column of a type. */
	at(type) {
		return /** @type {number} */ (this.column.get(type));
	}

	/** A point's budget in bits per weight, with the fewest digits that come to its very bytes. */
	budget(index) {
		const [capacity, weights] = [BigInt(this.points[index].capacity_bytes), BigInt(this.total)];
		for (let digits = 2n; weights; digits++) {
			const unit = 10n ** digits;
			const bits = (8n * capacity * unit + weights - 1n) / weights;
			if ((bits * weights) / (8n * unit) === capacity) return `${bits / unit}.${String(bits % unit).padStart(Number(digits), "0")}`;
		}
		return `${capacity}B`;
	}

	/** The last point of at most this capacity, or the first. */
	pointAt(capacity) {
		let found = 0;
		this.points.forEach((point, index) => { if (point.capacity_bytes <= capacity) found = index; });
		return found;
	}

	/** Bytes and number of tensors of each type at a point. */
	byType(index) {
		/** @type {Map<string, {type: string, tensors: number, bytes: number, weights: number}>} */
		const found = new Map();
		this.allocations[index].forEach((column, row) => {
			const type = this.types[column];
			const entry = found.get(type) ?? { type, tensors: 0, bytes: 0, weights: 0 };
			entry.tensors += 1;
			entry.bytes += this.bytes[row][column];
			entry.weights += this.weights[row];
			found.set(type, entry);
		});
		return [...found.values()].sort((a, b) => b.bytes - a.bytes);
	}

	/** Tensors whose type differs between two points. */
	changes(from, to) {
		/** @type {{tensor: string, before: string, after: string, bytes: number, loss: number}[]} */
		const found = [];
		this.tensors.forEach((tensor, row) => {
			const [before, after] = [this.allocations[from][row], this.allocations[to][row]];
			if (before === after) return;
			found.push({
				tensor,
				before: this.types[before],
				after: this.types[after],
				bytes: this.bytes[row][after] - this.bytes[row][before],
				loss: this.losses[row][after] - this.losses[row][before],
			});
		});
		return found.sort((a, b) => Math.abs(b.loss) - Math.abs(a.loss));
	}

	/** The most loss that a further byte in this tensor would save at a point; 0 if no larger type is offered. */
	worth(row, index) {
		const now = this.allocations[index][row];
		let best = 0;
		this.bytes[row].forEach((bytes, column) => {
			if (bytes == null || bytes <= this.bytes[row][now]) return;
			best = Math.max(best, (this.losses[row][now] - this.losses[row][column]) / (bytes - this.bytes[row][now]));
		});
		return best;
	}

	/** Tensors that have a choice of types. @returns {number[]} */
	choices() {
		return this.tensors.map((_, row) => row)
			.filter((row) => this.bytes[row].filter((each) => each != null).length > 1);
	}

	/** The types that a tensor may have, smallest first. */
	offered(row) {
		return this.types.filter((_, column) => this.bytes[row][column] != null)
			.sort((a, b) => this.bytes[row][this.at(a)] - this.bytes[row][this.at(b)] || typeBits(a) - typeBits(b));
	}
}
