"use strict";
// Embedded browsers put their function here, before or after the page has loaded.
window.matrixLogin = window.matrixLogin || {};
(function () {
    var form = document.getElementById("login");
    var alert = document.getElementById("alert");
    var button = form.querySelector("button");
    var query = new URLSearchParams(window.location.search);

    function say(text) {
        alert.textContent = text;
        button.disabled = false;
    }

    function body() {
        var sent = {
            type: "m.login.password",
            identifier: { type: "m.id.user", user: form.elements.user.value.trim() },
            password: form.elements.password.value
        };
        // What is no credential comes from whoever opened the page.
        ["device_id", "initial_device_display_name"].forEach(function (name) {
            if (query.has(name)) {
                sent[name] = query.get(name);
            }
        });
        if (query.get("refresh_token") === "true") {
            sent.refresh_token = true;
        }
        return sent;
    }

    function refused(status, answer) {
        if (status === 429) {
            var wait = Math.ceil((answer.retry_after_ms || 1000) / 1000);
            return "Too many attempts. Try again in " + wait + (wait === 1 ? " second." : " seconds.");
        }
        return answer.error || "The server refused it.";
    }

    function done(answer) {
        form.reset();
        form.hidden = true;
        document.getElementById("done").hidden = false;
        document.getElementById("user_id").textContent = answer.user_id;
        if (typeof window.matrixLogin.onLogin === "function") {
            window.matrixLogin.onLogin(answer);
        } else if (typeof window.onLogin === "function") {
            window.onLogin(answer);
        }
    }

    form.addEventListener("submit", function (event) {
        event.preventDefault();
        alert.textContent = "";
        button.disabled = true;
        fetch("../../../client/v3/login", {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify(body())
        }).then(function (response) {
            return response.json().then(function (answer) {
                if (response.ok) {
                    done(answer);
                } else {
                    say(refused(response.status, answer));
                }
            });
        }).catch(function () {
            say("The server could not be reached.");
        });
    });
}());
