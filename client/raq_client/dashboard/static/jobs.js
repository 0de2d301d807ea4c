// A job as the pages show it: state, progress by stages, the tool's own sentence where it failed.
// @ts-check
import { complain, copy, duration, make, plusMinus, post, size } from "./common.js";

function counted(stage) {
	if (!stage.total) return "";
	return stage.total < 100000 ? `${stage.done} of ${stage.total}` : `${size(stage.done)} of ${size(stage.total)}`;
}

function stageLine(stage) {
	const share = stage.total ? stage.done / stage.total : 0;
	const left = stage.left == null ? "" : `, ${duration(stage.left)} left`;
	const bar = make("progress", { max: "1", value: String(share), "aria-label": stage.stage });
	return make("div", { class: "stage" }, make("span", {}, stage.stage), make("span", {}, `${Math.floor(100 * share)} % · ${counted(stage)}${left}`), bar);
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

/**
 * A card whose parts keep their places while the job goes on: what it says is in a box of one height.
 * @param {any} job
 * @param {{place?: number, isLast?: boolean, outcome?: string}} [more] its place among those that wait, from 1; what it found
 */
export function jobCard(job, { place = 0, isLast = false, outcome: found = "" } = {}) {
	const act = (verb, /** @type {object} */ more = {}) => () => post(`jobs/${verb}`, { id: job.id, ...more }).catch(complain);
	const buttons = [];
	if (job.state === "queued") {
		buttons.push(make("button", { onclick: act("move", { forward: true }), disabled: place <= 1, "aria-label": `Move job ${job.id} forward` }, "↑"));
		buttons.push(make("button", { onclick: act("move", { forward: false }), disabled: isLast, "aria-label": `Move job ${job.id} back` }, "↓"));
	}
	if (job.state === "queued" || job.state === "running") buttons.push(make("button", { onclick: act("cancel"), "aria-label": `Cancel job ${job.id}` }, "Cancel"));
	if (job.state === "failed" || job.state === "cancelled") buttons.push(make("button", { onclick: act("retry"), "aria-label": `Try job ${job.id} again` }, "Try again"));
	buttons.push(make("button", { onclick: () => copy(job.command), "aria-label": `Copy the command of job ${job.id}` }, "Copy"));
	if (job.started) buttons.push(make("a", { class: "button", href: `/api/jobs/${job.id}/log`, download: true, "aria-label": `Download the log of job ${job.id}` }, "Log"));
	const took = job.started && job.ended ? duration(job.ended - job.started) : "";
	const when = new Date(1000 * (job.ended ?? job.started ?? job.created)).toLocaleString();
	return make("article", { class: "job", id: `job-${job.id}`, "data-state": job.state },
		make("div", { class: "job-head" },
			make("strong", {}, `${job.id} ${job.action}`), make("span", { class: `badge ${job.state}` }, job.state),
			make("span", { class: "note" }, [when, took].filter(Boolean).join(", ")), make("div", { class: "actions" }, ...buttons)),
		make("pre", { class: "command" }, job.command),
		said(job, place, found),
		history(job));
}

/** How far it is, why it failed, or what it found. */
function said(job, place, found) {
	const stage = job.stages.at(-1);
	if (job.error) return make("div", { class: "said", tabindex: "0", role: "region", "aria-label": `Why job ${job.id} ended` }, make("p", { class: "error" }, job.error));
	if (job.state === "queued") return make("div", { class: "said note" }, place > 1 ? `waits; ${place - 1} before it` : "is next");
	if (job.state === "done") return make("div", { class: "said" }, found ? make("p", { class: "outcome" }, found) : null);
	return make("div", { class: "said" }, stage ? stageLine(stage) : make("span", { class: "note" }, job.state === "running" ? "starting…" : ""));
}

/** The stages that it has been through, and its remarks. */
function history(job) {
	const stages = job.stages.map((stage) => `${stage.stage}: ${counted(stage)}`);
	const said = job.lines.length ? `, ${job.lines.length} remark${job.lines.length > 1 ? "s" : ""}` : "";
	return make("details", {}, make("summary", {}, `${stages.length} stage${stages.length === 1 ? "" : "s"}${said}`), make("pre", { class: "command" }, [...stages, ...job.lines].join("\n")));
}
