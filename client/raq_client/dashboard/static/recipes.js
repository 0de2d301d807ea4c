// Recipes: shown with their errors, written by a form that is made from raq's schema.
// @ts-check
import { at, complain, difference, get, make, post, say, short } from "./common.js";

/** Keys that the form shows at once; the others when they are asked for, or given. */
const FIRST = ["name", "description", "model", "imatrix", "budget", "base", "types", "pin", "text", "output"];

let schema;
let edited = { name: "", data: {}, isNew: true };
let isDifferenceSeen = false;

/** What a property is, without references and null. */
function plain(part) {
	if (part.$ref) return { ...schema.$defs[part.$ref.split("/").at(-1)], ...part, $ref: undefined };
	const choice = (part.anyOf ?? part.allOf ?? []).find((each) => each.type !== "null");
	return choice ? { ...plain(choice), description: part.description } : part;
}

/** A control for a property, and how its value is read; undefined: not given. */
function control(name, part, value, path) {
	const id = `recipe-${[...path, name].join("-")}`;
	const label = make("span", {}, name.replaceAll("_", " "), part.description ? make("span", { class: "note" }, ` – ${part.description}`) : null);
	if (part.properties) {
		const { boxes, read } = controls(part, value ?? {}, [...path, name]);
		return { box: make("fieldset", {}, make("legend", {}, label), ...boxes), read };
	}
	if (part.type === "boolean") {
		const box = make("input", { type: "checkbox", id });
		box.checked = value ?? false;
		return { box: make("label", { class: "check" }, box, label), read: () => (box.checked ? true : value === undefined ? undefined : false) };
	}
	const options = part.enum ?? (part.const === undefined ? null : [part.const]);
	if (options) {
		const box = make("select", { id }, ...(part.const === undefined ? [make("option", { value: "" }, "–")] : []), ...options.map((each) => make("option", { value: each }, each)));
		box.value = value ?? part.const ?? "";
		return { box: make("label", {}, label, box), read: () => box.value || undefined };
	}
	const isList = part.type === "array";
	const isObjects = isList && Boolean(plain(part.items ?? {}).properties);
	const box = make(isList ? "textarea" : "input", { id, spellcheck: "false", placeholder: isObjects ? "[] as JSON" : isList ? "a line each" : "" });
	box.value = isObjects ? (value ? JSON.stringify(value) : "") : isList ? (value ?? []).join("\n") : value ?? "";
	const read = () => {
		const text = box.value.trim();
		if (!text) return undefined;
		if (isObjects) return JSON.parse(text);
		if (isList) return text.split("\n").map((each) => each.trim()).filter(Boolean);
		return part.type === "integer" || part.type === "number" ? Number(text) : text;
	};
	return { box: make("label", {}, label, box), read };
}

/** Controls for all properties of an object; what has none is kept as it was. */
function controls(part, data, path) {
	const made = Object.entries(part.properties).map(([name, each]) => [name, control(name, plain(each), data[name], path)]);
	const read = () => {
		const found = { ...data };
		for (const [name, each] of made) {
			const value = each.read();
			if (value === undefined) delete found[name];
			else found[name] = value;
		}
		return Object.keys(found).length || !path.length ? found : undefined;
	};
	if (path.length) return { boxes: made.map(([, each]) => each.box), read };
	const isFirst = ([name]) => FIRST.includes(name) || (data[name] !== undefined && name !== "format");
	const rank = ([name]) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
	const shown = made.filter(isFirst).sort((a, b) => rank(a) - rank(b));
	const others = make("details", {}, make("summary", {}, "All other keys"), make("div", { class: "fields" }, ...made.filter((each) => !isFirst(each)).map(([, each]) => each.box)));
	return { boxes: [...shown.map(([, each]) => each.box), others], read };
}

/** A line that holds a role of the model at a type, added to the key pin. @param {string[]} patterns */
function holder(patterns) {
	const which = make("select", { "aria-label": "Role to hold" }, ...patterns.map((each) => make("option", { value: each }, each)));
	const type = make("input", { "aria-label": "Type to hold it at", size: "8", placeholder: "Q6_K", spellcheck: "false" });
	const add = make("button", { type: "button", onclick: () => {
		const lines = at("recipe-pin").value.split("\n").filter((line) => line.trim() && !line.startsWith(`${which.value}=`));
		if (type.value.trim()) at("recipe-pin").value = [...lines, `${which.value}=${type.value.trim()}`].join("\n");
	} }, "Hold");
	return make("div", { class: "holder" }, which, type, add);
}

/** Offer the roles of the model that a recipe names. */
async function offerRoles(model) {
	if (!model) return;
	const found = await get("model", { file: model }).catch(() => null);
	const matrices = new Set((found?.tensors ?? []).filter((each) => each.shape.length > 1).map((each) => each.name.replace(/^blk\.\d+\./, "blk.*.")));
	if (matrices.size && model === edited.data.model) at("recipe-pin").closest("label").after(holder([...matrices]));
}

const RECIPE = "recipe ";
const BASE = "base ";

/** What a new recipe can start from: recipes of the folder, raq's, llama.cpp's mixtures. */
async function offerStarts() {
	const [files, known] = await Promise.all([get("folder"), get("bases")]);
	const group = (label, values, kind) => (values.length ? make("optgroup", { label }, ...values.map((each) => make("option", { value: kind + each }, each))) : null);
	at("recipe-start").replaceChildren(make("option", { value: "" }, "what is chosen on this page"), ...[
		group("recipes of this folder", files.filter((file) => file.is_build).map((file) => file.file), RECIPE),
		group("recipes of raq", Object.keys(known.recipes), BASE),
		group("mixtures of llama.cpp", known.mixtures, BASE)].filter((each) => each !== null));
	at("recipe-start").onchange = () => {
		const value = at("recipe-start").value;
		const { name, output, model } = edited.data;
		if (value.startsWith(RECIPE)) show({ ...files.find((file) => file.file === value.slice(RECIPE.length)).recipe, name, output });
		else if (value.startsWith(BASE)) show({ format: "raq-recipe-2", name, model, base: value.slice(BASE.length), output });
		else show(edited.data);
	};
}

/** Show the form with this content. */
function show(data) {
	const form = controls(schema, data, []);
	read = form.read;
	at("recipe-fields").replaceChildren(...form.boxes);
	offerRoles(edited.data.model);
}

let read = () => ({});

/** Open the form. */
export async function edit(name, data, isNew) {
	try {
		schema ??= await get("schema");
		edited = { name, data, isNew };
		isDifferenceSeen = false;
		show(data);
		at("recipe-start-label").hidden = !isNew;
		if (isNew) await offerStarts();
		at("recipe-name").value = name;
		at("recipe-problem").hidden = at("recipe-difference").hidden = true;
		at("recipe-save").textContent = "Save";
		at("recipe").showModal();
	} catch (error) { complain(error); }
}

at("recipe-form").addEventListener("input", () => {
	isDifferenceSeen = false;  // what is replaced has been seen as it is written
	at("recipe-difference").hidden = true;
	at("recipe-save").textContent = "Save";
});
at("recipe-cancel").addEventListener("click", () => at("recipe").close());
at("recipe-form").addEventListener("submit", async (event) => {
	event.preventDefault();
	try {
		const answer = await post("recipe", { name: at("recipe-name").value, data: read(), replace: isDifferenceSeen });
		if (answer.saved || !answer.difference) {
			at("recipe").close();
			say(answer.saved ? `${answer.name} is saved` : `${answer.name} says so already`);
			return;
		}
		isDifferenceSeen = true;
		difference(at("recipe-difference"), answer.difference);
		at("recipe-difference").hidden = false;
		at("recipe-problem").hidden = true;
		at("recipe-save").textContent = "Replace";
	} catch (error) {
		at("recipe-problem").textContent = error.message;
		at("recipe-problem").hidden = false;
	}
});

/** What a recipe states, in a few words each. @returns {string[]} */
function pillsOf(file) {
	const stated = file.recipe;
	const names = (/** @type {any} */ value) => [value ?? []].flat();
	return [
		stated.budget ? `budget ${stated.budget}` : "",
		stated.base ? `base ${stated.base}` : "",
		...["pin", "floor", "ceiling"].flatMap((kind) => names(stated[kind]).map((each) => `${kind} ${each}`)),
		...names(stated.auto).map((each) => `raise ${each.most ?? 1} × ${each.unit ?? "block"} by ${each.rule ?? "price"}`),
		...names(stated.imatrix).map((each) => `importance ${each}`),
		...names(stated.importance?.texts).map((each) => `collects from ${each}`),
		file.bits_per_weight ? `${file.bits_per_weight.toFixed(3)} bpw, predicted loss ${short(file.loss)}` : "",
		`→ ${stated.output.file}`,
	].filter(Boolean);
}

/** Show the recipes of the folder. @param {(name: string) => void} onbuild */
export function showRecipes(files, onbuild) {
	const recipes = files.filter((file) => file.kind === "recipe");
	at("no-recipes").hidden = recipes.length > 0;
	at("recipes").replaceChildren(...recipes.map((file) => {
		const pills = file.is_build ? pillsOf(file) : [];
		const buttons = file.is_build ? [
			make("button", { onclick: () => onbuild(file.file), "aria-label": `Build ${file.file}` }, "Build"),
			make("button", { onclick: () => edit(file.file, file.recipe, false), "aria-label": `Edit ${file.file}` }, "Edit")] : [];
		return make("li", {}, make("div", {}, make("strong", {}, file.name ?? file.file), " ", make("span", { class: "note" }, file.file), make("div", { class: "pills" }, ...pills.map((each) => make("span", { class: "pill" }, each))),
			file.error ? make("p", { class: "problem" }, file.error) : make("p", { class: "note" }, file.description ?? "")), make("div", { class: "actions" }, ...buttons));
	}));
}
