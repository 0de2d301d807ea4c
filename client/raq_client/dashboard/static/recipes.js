// Recipes: shown with their errors, written by a form that is made from raq's schema.
// @ts-check
import { at, complain, difference, get, make, post, say, short } from "./common.js";

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
	const first = part.required ?? [];
	made.sort((a, b) => Number(first.includes(b[0])) - Number(first.includes(a[0])));
	return { boxes: made.map(([, each]) => each.box), read };
}

let read = () => ({});

/** Open the form. */
export async function edit(name, data, isNew) {
	try {
		schema ??= await get("schema");
		edited = { name, data, isNew };
		isDifferenceSeen = false;
		const form = controls(schema, data, []);
		read = form.read;
		at("recipe-fields").replaceChildren(...form.boxes);
		at("recipe-name").value = name;
		at("recipe-problem").hidden = at("recipe-difference").hidden = true;
		at("recipe-save").textContent = "Save";
		at("recipe").showModal();
	} catch (error) { complain(error); }
}

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

/** Show the recipes of the folder. @param {(name: string) => void} onbuild */
export function showRecipes(files, onbuild) {
	const recipes = files.filter((file) => file.kind === "recipe");
	at("no-recipes").hidden = recipes.length > 0;
	at("recipes").replaceChildren(...recipes.map((file) => {
		const pills = file.is_build ? [file.bits_per_weight ? `${file.bits_per_weight.toFixed(3)} bpw, loss ${short(file.loss)}` : `budget ${file.recipe.budget ?? file.recipe.base ?? ""}`, `→ ${file.recipe.output.file}`] : [];
		const buttons = file.is_build ? [
			make("button", { onclick: () => onbuild(file.file), "aria-label": `Build ${file.file}` }, "Build"),
			make("button", { onclick: () => edit(file.file, file.recipe, false), "aria-label": `Edit ${file.file}` }, "Edit")] : [];
		return make("li", {}, make("div", {}, make("strong", {}, file.name ?? file.file), " ", make("span", { class: "note" }, [file.file, ...pills].join(" · ")),
			file.error ? make("p", { class: "problem" }, file.error) : make("p", { class: "note" }, file.description ?? "")), make("div", { class: "actions" }, ...buttons));
	}));
}
