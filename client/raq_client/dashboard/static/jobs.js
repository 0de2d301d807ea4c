// A job as the pages show it: state, progress by stages, the tool's own sentence where it failed.
// @ts-check
import { complain, duration, make, plusMinus, post, size } from "./common.js";

function stageLine(stage, isLast, state) {
	const share = stage.total ? stage.done / stage.total : 0;
	const isOver = !isLast || state !== "running";
	const counted = stage.total && stage.total < 100000 ? `${stage.done} of ${stage.total}` : stage.total ? `${size(stage.done)} of ${size(stage.total)}` : "";
	const left = isOver ? "" : stage.left == null ? "" : `, ${duration(stage.left)} left`;
	const bar = make("progress", { max: "1", value: String(isOver && state !== "failed" && state !== "cancelled" ? 1 : share), "aria-label": stage.stage });
	return make("div", { class: "stage" }, make("span", {}, stage.stage), make("span", {}, `${Math.floor(100 * share)} % · ${counted}${left}`), bar);
}

/** What a finished job found, in a line. */
export function outcome(job, result) {
	if (!result) return "";
	if (Array.isArray(result)) return result.map((step) => `${step.second ?? ""} is ${step.verdict}`).join("; ");
	const found = [];
	if (result.plan) found.push(`${result.plan.bits_per_weight.toFixed(3)} bpw, predicted loss ${result.plan.loss.toPrecision(3)}`);
	if (result.file) found.push(size(result.file.tensor_bytes));
	const overall = (result.check ?? result).overall;
	if (overall) found.push(`KL ${plusMinus(overall.kl)}, same top ${plusMinus(overall.top1_agreement)}`);
	return found.join(" · ");
}

/** @param {{isFirst?: boolean, isLast?: boolean}} [place] where it stands among those that wait */
export function jobCard(job, place = {}) {
	const act = (verb, /** @type {object} */ more = {}) => () => post(`jobs/${verb}`, { id: job.id, ...more }).catch(complain);
	const buttons = [];
	if (job.state === "queued") {
		buttons.push(make("button", { onclick: act("move", { forward: true }), disabled: place.isFirst, "aria-label": `Move job ${job.id} forward` }, "↑"));
		buttons.push(make("button", { onclick: act("move", { forward: false }), disabled: place.isLast, "aria-label": `Move job ${job.id} back` }, "↓"));
	}
	if (job.state === "queued" || job.state === "running") buttons.push(make("button", { onclick: act("cancel"), "aria-label": `Cancel job ${job.id}` }, "Cancel"));
	if (job.state === "failed" || job.state === "cancelled") buttons.push(make("button", { onclick: act("retry"), "aria-label": `Try job ${job.id} again` }, "Try again"));
	if (job.started) buttons.push(make("a", { class: "button", href: `/api/jobs/${job.id}/log`, download: true, "aria-label": `Download the log of job ${job.id}` }, "Log"));
	const took = job.started && job.ended ? duration(job.ended - job.started) : "";
	const when = new Date(1000 * (job.ended ?? job.started ?? job.created)).toLocaleString();
	return make("article", { class: "job", id: `job-${job.id}`, "data-state": job.state },
		make("div", { class: "job-head" },
			make("strong", {}, `${job.id} ${job.action}`), make("span", { class: `badge ${job.state}` }, job.state),
			make("span", { class: "note" }, [when, took].filter(Boolean).join(", ")), make("div", { class: "actions" }, ...buttons)),
		make("pre", { class: "command" }, job.command),
		...job.stages.map((stage, index) => stageLine(stage, index === job.stages.length - 1, job.state)),
		job.error ? make("p", { class: "error" }, job.error) : null,
		job.lines.length ? make("details", {}, make("summary", {}, `${job.lines.length} remark${job.lines.length > 1 ? "s" : ""}`), make("pre", { class: "command" }, job.lines.join("\n"))) : null);
}
